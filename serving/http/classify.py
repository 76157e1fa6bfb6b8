"""`POST /classify`: encoded images in, labels with probabilities out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import to_json
from starlette.datastructures import Headers, UploadFile
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from serving.context import ServiceContext
from serving.core.dataplane import Limits
from serving.core.errors import BadImage, BadRequest, RequestError, TooLarge, UnsupportedMedia
from serving.core.explainer import ExplainRequest, HeatMap
from serving.core.requests import InferRequest, InferResponse, top
from serving.http.body import (
    BodyWithin,
    CancelledIfGone,
    json_response,
    limit_body,
    number,
    read_body,
    timeout_s,
)
from serving.http.form import IMAGE_FIELD, parsed_form

DEFAULT_TOP_K, MAX_TOP_K = 5, 999_999_999
_HEAT_MAP_DIGITS = 4
# Predictions that take more than some milliseconds to write.
_LARGE_REPLY = 5_000


@dataclass(frozen=True)
class _Upload:
    """What was sent: file names (None for a raw body), encoded images, a form's other fields."""

    names: Sequence[str | None]
    images: Sequence[bytes]
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Options:
    top_k: int
    threshold: float
    explain: Sequence[ExplainRequest]


async def classify(request: Request) -> Response:
    """`POST /classify?top_k=5&threshold=0`: a raw `image/*` body, or multipart with `image` parts.
    With `explain=true` each image gets its heat map, of the most probable class or of `target`.

    The options may be fields of the form as well. One bad image of several has its `error` in its
    place; the request fails where all are bad.
    """
    context: ServiceContext = request.app.state.context
    limits = context.classifier.limits
    deadline = limits.deadline(timeout_s(request))
    # Wrong ones are told before a large body is read.
    options = _options(request.query_params) if request.scope["query_string"] else _DEFAULTS
    async with BodyWithin(deadline):
        upload = await _read_upload(request, limits)
    if upload.fields:
        _options(upload.fields)  # wrong ones are told, also where the address has others
        options = _options({**upload.fields, **request.query_params})
    async with CancelledIfGone(request):
        answer = await context.classifier.infer(
            InferRequest(images=upload.images, deadline=deadline, explain=options.explain)
        )
        count = len(answer.rows) * min(options.top_k, len(answer.model.spec.labels))
        if count > _LARGE_REPLY:
            return await deadline.off_loop(_large_reply, answer, upload.names, options)
    return json_response(
        reply_content(answer, upload.names, options.top_k, options.threshold),
    )


def _large_reply(answer: InferResponse, names: Sequence[str | None], options: _Options) -> Response:
    """An image at a time: writing JSON holds the GIL, and with it the event loop."""
    content = reply_content(answer, names, options.top_k, options.threshold)
    images = b",".join(to_json(image) for image in content.pop("images"))
    head = to_json(content)
    return Response(head[:-1] + b',"images":[' + images + b"]}", media_type="application/json")


def reply_content(
    answer: InferResponse, names: Sequence[str | None], top_k: int, threshold: float
) -> dict[str, Any]:
    """The body of an answer: `serving.http.openapi.ClassifyReply`.

    Raises:
        RequestError: no image has an answer.
    """
    if all(isinstance(row, RequestError) for row in answer.rows):
        answer.outputs()  # raises the first one
    labels = answer.model.spec.labels
    maps = iter(next(iter(answer.heat_maps.values()), ()))
    return {
        "model_name": answer.model.name,
        "model_version": answer.model.version,
        "images": [
            {"filename": name, "error": str(row)}
            if isinstance(row, RequestError)
            else {
                "filename": name,
                "predictions": [
                    {"label": p.label, "index": p.index, "probability": p.probability}
                    for p in top(labels, row.probabilities, top_k, threshold)
                ],
                "accepted": answer.model.accepts(row),
                **({} if row.distance is None else {"distance": round(row.distance, 4)}),
                **_heat_map(labels, next(maps, None)),
            }
            for name, row in zip(names, answer.rows, strict=True)
        ],
        "timings_ms": {
            stage: round(seconds * 1e3, 3)
            for stage, seconds in answer.timings.stages_and_old_names().items()
        },
    }


def _heat_map(labels: Sequence[str], heat_map: HeatMap | None) -> dict[str, Any]:
    if heat_map is None:
        return {}
    values = heat_map.values.astype(float).round(_HEAT_MAP_DIGITS).tolist()
    described = {"label": labels[heat_map.index], "index": heat_map.index, "values": values}
    return {"heatmap": described}


def _options(values: Mapping[str, str]) -> _Options:
    return _Options(
        top_k=_top_k(values.get("top_k", str(DEFAULT_TOP_K))),
        threshold=_threshold(values.get("threshold", "0")),
        explain=_explain_request(values.get("explain", "false"), values.get("target", "")),
    )


def _explain_request(explain: str, target: str) -> Sequence[ExplainRequest]:
    wanted = {"true": True, "false": False}.get(explain.lower())  # Python's clients send True
    if wanted is None:
        raise BadRequest(f"explain is '{explain[:20]}', it must be true or false")
    if target and not wanted:
        raise BadRequest("target is the class of a heat map; send explain=true as well")
    return [ExplainRequest(target)] if wanted else []


def _top_k(value: str) -> int:
    if not value.isascii() or not value.isdigit() or len(value) > 9 or int(value) < 1:
        raise BadRequest(f"top_k is '{value[:20]}', it must be a whole number, 1 to {MAX_TOP_K}")
    return int(value)


def _threshold(value: str) -> float:
    threshold = number(value)
    if not 0 <= threshold <= 1:  # NaN fails, too
        raise BadRequest(f"threshold is '{value[:20]}', it must be a probability, 0 to 1")
    return threshold


_DEFAULTS = _options({})


async def _read_upload(request: Request, limits: Limits) -> _Upload:
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == "multipart/form-data":
        return await _read_multipart(request, limits)
    if content_type.startswith("image/") or content_type == "application/octet-stream":
        return _Upload([None], [await _read_raw(request, limits.max_image_bytes)])
    raise UnsupportedMedia(
        f"the content type is '{content_type[:50]}'; send the image itself as image/jpeg (or "
        f"another image type), or multipart/form-data with '{IMAGE_FIELD}' parts"
    )


async def _read_raw(request: Request, max_bytes: int) -> bytes:
    body = await read_body(request, max_bytes)
    if not body:
        raise BadImage("the body is empty; send the bytes of an image")
    return body


async def _read_multipart(request: Request, limits: Limits) -> _Upload:
    limited = limit_body(request, limits.max_request_bytes)
    plain = Request(_without_charset(request.scope), limited.receive)
    count = limits.max_request_images
    async with parsed_form(plain, count) as form:
        parts = form.getlist(IMAGE_FIELD)
        uploads = [part for part in parts if isinstance(part, UploadFile)]
        if not uploads or len(uploads) != len(parts):
            raise BadRequest(
                f"the form needs one or more file parts named '{IMAGE_FIELD}'; "
                f"with curl: -F {IMAGE_FIELD}=@photo.jpg"
            )
        return _Upload(
            names=[upload.filename for upload in uploads],
            images=[await _read_part(upload, limits.max_image_bytes) for upload in uploads],
            fields={name: value for name, value in form.items() if isinstance(value, str)},
        )


async def _read_part(upload: UploadFile, max_image_bytes: int) -> bytes:
    if upload.size is not None and upload.size > max_image_bytes:
        raise TooLarge(
            f"an image has {upload.size:,} bytes, the limit is {max_image_bytes:,} "
            "(VGG19_MAX_IMAGE_BYTES)"
        )
    return await upload.read()


def _without_charset(scope: Scope) -> Scope:
    """A form's charset is that of its field names; with any but UTF-8 the parser goes astray."""
    content_type = Headers(scope=scope)["content-type"]
    kept = [p for p in content_type.split(";") if not p.strip().lower().startswith("charset")]
    headers = [(k, v) for k, v in scope["headers"] if k != b"content-type"]
    return {**scope, "headers": [*headers, (b"content-type", ";".join(kept).encode("latin-1"))]}
