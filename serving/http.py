"""HTTP: converts requests for the classifier and its answers back. Nothing else happens here."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import Headers, UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from serving import http_v2
from serving.access import Keys, RateLimit
from serving.body import limit_body, number, timeout_s
from serving.classifier import Classifier, top
from serving.errors import (
    INTERNAL_ERROR,
    BadImage,
    BadRequest,
    Conflict,
    DeadlineExceeded,
    NotThere,
    Overloaded,
    RateLimited,
    RequestError,
    ShuttingDown,
    TooLarge,
    Unauthenticated,
    UnknownModel,
    UnsupportedMedia,
)
from serving.providers import CPU

logger = logging.getLogger(__name__)

DEFAULT_TOP_K = 5
_IMAGE_FIELD = "image"

_STATUS: dict[type[RequestError], HTTPStatus] = {
    BadImage: HTTPStatus.BAD_REQUEST,
    BadRequest: HTTPStatus.UNPROCESSABLE_ENTITY,
    UnsupportedMedia: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    TooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    UnknownModel: HTTPStatus.NOT_FOUND,
    NotThere: HTTPStatus.NOT_FOUND,
    Unauthenticated: HTTPStatus.UNAUTHORIZED,
    Conflict: HTTPStatus.CONFLICT,
    RateLimited: HTTPStatus.TOO_MANY_REQUESTS,
    Overloaded: HTTPStatus.SERVICE_UNAVAILABLE,
    ShuttingDown: HTTPStatus.SERVICE_UNAVAILABLE,
    DeadlineExceeded: HTTPStatus.GATEWAY_TIMEOUT,
}


def create_app() -> Starlette:
    """The HTTP application.

    `app.state` gets, when the model is loaded: `classifier`, `keys`, `rate_limit`, `is_ready` and
    `list_versions` (see `serving.runtime.Runtime.http_state`).
    """
    return Starlette(
        routes=[
            Route("/classify", classify, methods=["POST"]),
            Route("/model", model),
            Route("/labels", labels),
            *http_v2.routes(),
            *http_v2.admin_routes(),
        ],
        middleware=[Middleware(AccessMiddleware)],
        exception_handlers={
            RequestError: _on_request_error,
            HTTPException: _on_http_exception,
            ClientDisconnect: _on_disconnect,
            Exception: _on_internal_error,
        },
    )


class AccessMiddleware:
    """Asks for keys and counts requests, before anything of a body is read."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not _is_open(scope["path"]):
            request = Request(scope)
            try:
                _check_access(request)
            except RequestError as error:
                response = await _on_request_error(request, error)
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _is_open(path: str) -> bool:
    """Probes need no key."""
    return path == "/v2" or path.startswith("/v2/health/")


def _check_access(request: Request) -> None:
    keys: Keys = request.app.state.keys
    rate_limit: RateLimit = request.app.state.rate_limit
    authorization = request.headers.get("authorization")
    if request.url.path.startswith("/v2/repository/"):
        if not keys.has_admin:
            raise NotThere("Not Found")  # without an admin key there are no such routes
        keys.check_admin(authorization)
        return
    client = keys.check(authorization) or (request.client.host if request.client else "")
    rate_limit.check(client)


async def classify(request: Request) -> Response:
    """`POST /classify?top_k=5&threshold=0`: a raw `image/*` body, or multipart with `image` parts.

    One bad image of several has its `error` in its place; the request fails where all are bad.
    """
    classifier: Classifier = request.app.state.classifier
    top_k, threshold, limit = _top_k(request), _threshold(request), timeout_s(request)
    names, images = await _read_images(request, classifier)
    answer = await classifier.classify(images, timeout_s=limit)
    if all(isinstance(row, RequestError) for row in answer.rows):
        answer.probabilities()  # raises the first one
    labels = answer.model.spec.labels
    return JSONResponse(
        {
            "model_name": answer.model.name,
            "model_version": answer.model.version,
            "images": [
                {"filename": name, "error": str(row)}
                if isinstance(row, RequestError)
                else {
                    "filename": name,
                    "predictions": [
                        {"label": p.label, "index": p.index, "probability": p.probability}
                        for p in top(labels, row, top_k, threshold)
                    ],
                }
                for name, row in zip(names, answer.rows, strict=True)
            ],
        }
    )


async def model(request: Request) -> Response:
    """`GET /model`: what is served, and whether a later one couldn't be."""
    classifier: Classifier = request.app.state.classifier
    served, failed = classifier.models.current, classifier.models.failed
    on_gpu = served.provider != CPU
    return JSONResponse(
        {
            "name": served.name,
            "version": served.version,
            "loaded_versions": classifier.models.versions,
            "failed_load": failed and {"version": failed.wanted.version, "reason": failed.reason},
            "device": "gpu" if on_gpu else "cpu",
            "provider": served.provider,
            "spec": served.spec.model_dump(mode="json"),
            "metrics": served.metrics,
        }
    )


async def labels(request: Request) -> Response:
    """`GET /labels`: the classes, in the order of the model's output."""
    classifier: Classifier = request.app.state.classifier
    return JSONResponse({"labels": classifier.models.current.spec.labels})


def _top_k(request: Request) -> int:
    value = request.query_params.get("top_k", str(DEFAULT_TOP_K))
    if not value.isascii() or not value.isdigit() or len(value) > 9 or int(value) < 1:
        raise BadRequest(f"top_k is '{value[:20]}', it must be a whole number from 1")
    return int(value)


def _threshold(request: Request) -> float:
    value = request.query_params.get("threshold", "0")
    threshold = number(value)
    if not 0 <= threshold <= 1:  # NaN fails, too
        raise BadRequest(f"threshold is '{value[:20]}', it must be a probability, 0 to 1")
    return threshold


async def _read_images(
    request: Request, classifier: Classifier
) -> tuple[Sequence[str | None], Sequence[bytes]]:
    """The request's file names (None for a raw body) and encoded images."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    limits = classifier.limits
    if content_type == "multipart/form-data":
        return await _read_multipart(
            request, limits.max_request_images, limits.max_request_bytes, limits.max_image_bytes
        )
    if content_type.startswith("image/") or content_type == "application/octet-stream":
        return [None], [await _read_raw(request, limits.max_image_bytes)]
    raise UnsupportedMedia(
        f"the content type is '{content_type[:50]}'; send the image itself as image/jpeg (or "
        f"another image type), or multipart/form-data with '{_IMAGE_FIELD}' parts"
    )


async def _read_raw(request: Request, max_bytes: int) -> bytes:
    body = await limit_body(request, max_bytes).body()
    if not body:
        raise BadImage("the body is empty; send the bytes of an image")
    return body


async def _read_multipart(
    request: Request, max_images: int, max_bytes: int, max_image_bytes: int
) -> tuple[list[str | None], list[bytes]]:
    limited = limit_body(request, max_bytes)
    plain = Request(_without_charset(request.scope), limited.receive)
    async with plain.form(max_files=max_images, max_fields=max_images) as form:
        parts = form.getlist(_IMAGE_FIELD)
        uploads = [part for part in parts if isinstance(part, UploadFile)]
        if not uploads or len(uploads) != len(parts):
            raise BadRequest(
                f"the form needs one or more file parts named '{_IMAGE_FIELD}'; "
                f"with curl: -F {_IMAGE_FIELD}=@photo.jpg"
            )
        return [u.filename for u in uploads], [await _read(u, max_image_bytes) for u in uploads]


async def _read(upload: UploadFile, max_image_bytes: int) -> bytes:
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


async def _on_request_error(_: Request, error: Exception) -> Response:
    status = next(_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS)
    headers = {}
    if status is HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = "1"
    if isinstance(error, RateLimited):
        headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    return problem(status, str(error), headers)


async def _on_http_exception(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return problem(HTTPStatus(error.status_code), error.detail, dict(error.headers or {}))


async def _on_disconnect(_: Request, __: Exception) -> Response:
    return Response(status_code=HTTPStatus.BAD_REQUEST)  # nobody is there to read it


async def _on_internal_error(_: Request, __: Exception) -> Response:
    # Starlette raises the exception again after this answer, which puts it into the log.
    return problem(HTTPStatus.INTERNAL_SERVER_ERROR, INTERNAL_ERROR)


def problem(status: HTTPStatus, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """An `application/problem+json` answer (RFC 9457)."""
    content: dict[str, Any] = {
        "type": "about:blank",
        "title": status.phrase,
        "status": int(status),
        "detail": detail,
    }
    return JSONResponse(content, status, headers, media_type="application/problem+json")
