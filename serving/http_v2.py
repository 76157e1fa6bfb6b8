"""Open Inference Protocol v2 over HTTP: converts, and nothing else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from google.protobuf.json_format import MessageToDict
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from models.errors import UserError
from serving import __version__, open_inference, open_inference_json
from serving.body import limit_body, timeout_s
from serving.classifier import Classifier
from serving.errors import BadRequest, Conflict, UnknownModel, UnsupportedMedia

_HEADER_LENGTH = "Inference-Header-Content-Length"
EXTENSIONS = ("binary_tensor_data", "classification", "model_repository")


def routes() -> list[Route]:
    model = "/v2/models/{name}"
    version = model + "/versions/{version}"
    return [
        Route("/v2", server),
        Route("/v2/health/live", live),
        Route("/v2/health/ready", ready),
        Route(model, metadata),
        Route(version, metadata),
        Route(model + "/ready", model_ready),
        Route(version + "/ready", model_ready),
        Route(model + "/infer", infer, methods=["POST"]),
        Route(version + "/infer", infer, methods=["POST"]),
    ]


def admin_routes() -> list[Route]:
    """The model repository extension, behind the admin key (`serving.access`)."""
    model = "/v2/repository/models/{name}"
    return [
        Route("/v2/repository/index", index, methods=["POST"]),
        Route(model + "/load", load, methods=["POST"]),
        Route(model + "/unload", unload, methods=["POST"]),
    ]


async def server(_: Request) -> Response:
    return JSONResponse(
        {"name": open_inference.SERVER_NAME, "version": __version__, "extensions": list(EXTENSIONS)}
    )


async def live(_: Request) -> Response:
    return JSONResponse({"live": True})


async def ready(request: Request) -> Response:
    is_ready: Callable[[], bool] = request.app.state.is_ready
    return _readiness(is_ready())


async def metadata(request: Request) -> Response:
    models = _classifier(request).models
    model = models.get(request.path_params["name"], request.path_params.get("version", ""))
    message = open_inference.model_metadata(model.name, models.versions, model.spec)
    content = MessageToDict(message, preserving_proto_field_name=True)
    for tensor in content["inputs"] + content["outputs"]:
        tensor["shape"] = [int(length) for length in tensor["shape"]]  # int64 is text in its JSON
    return JSONResponse(content)


async def model_ready(request: Request) -> Response:
    try:
        _classifier(request).models.get(
            request.path_params["name"], request.path_params.get("version", "")
        )
    except UnknownModel:
        return _readiness(False)
    return _readiness(True)


async def infer(request: Request) -> Response:
    classifier = _classifier(request)
    version = request.path_params.get("version", "")
    classifier.models.get(request.path_params["name"], version)
    limit = timeout_s(request)
    body = await limit_body(request, classifier.limits.max_request_bytes).body()
    parsed = await asyncio.to_thread(
        open_inference_json.read_request, body, _header_length(request)
    )
    outputs = open_inference.requested_outputs(parsed.message)
    answer = await open_inference.classify(classifier, parsed.message, version, limit)
    content, header_length = open_inference_json.write_response(parsed, answer, outputs)
    if header_length is None:
        return Response(content, media_type="application/json")
    return Response(
        content,
        media_type="application/octet-stream",
        headers={_HEADER_LENGTH: str(header_length)},
    )


async def index(request: Request) -> Response:
    """`POST /v2/repository/index`: every registered version, and which are loaded."""
    body = await _json_body(request)
    listed: Callable[[], list[str]] = request.app.state.list_versions
    classifier = _classifier(request)
    loaded = classifier.models.versions
    name = classifier.models.current.name
    entries = [
        {"name": name, "version": version, "state": "READY" if version in loaded else "UNAVAILABLE"}
        for version in await asyncio.to_thread(listed)
    ]
    failed = classifier.models.failed
    for entry in entries:
        if failed and failed.wanted.version == entry["version"]:
            entry["reason"] = failed.reason
    wanted = [entry for entry in entries if entry["state"] == "READY" or not body.get("ready")]
    return JSONResponse(wanted)


async def load(request: Request) -> Response:
    """`POST /v2/repository/models/vgg19/load`: the parameter `version` names which."""
    version = await _repository_version(request)
    try:
        await _classifier(request).models.load(version)
    except UserError as error:
        raise Conflict(f"version '{version}' can't be loaded: {error}") from None
    return JSONResponse({})


async def unload(request: Request) -> Response:
    await _classifier(request).models.unload(await _repository_version(request))
    return JSONResponse({})


async def _repository_version(request: Request) -> str:
    """From the body: {"parameters": {"version": "..."}}.

    Raises:
        UnknownModel: another model. BadRequest: no version, or one that is no name.
    """
    name = request.path_params["name"]
    current = _classifier(request).models.current
    if name != current.name:
        raise UnknownModel(f"model '{name[:50]}' is not served here; '{current.name}' is")
    parameters = (await _json_body(request)).get("parameters")
    version = parameters.get("version") if isinstance(parameters, dict) else None
    if not isinstance(version, str) or not open_inference.VERSION_PATTERN.fullmatch(version):
        raise BadRequest(
            'the body must name a version: {"parameters": {"version": "20260131-120000-1a2b3c"}}'
        )
    return version


async def _json_body(request: Request) -> dict[str, Any]:
    body = await limit_body(request, 100_000).body()
    try:
        content = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        raise BadRequest("the body is no JSON") from None
    if not isinstance(content, dict):
        raise BadRequest("the body must be a JSON object")
    return content


def _header_length(request: Request) -> int | None:
    value = request.headers.get(_HEADER_LENGTH)
    if value is None:
        content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if content_type not in ("application/json", ""):
            raise UnsupportedMedia(
                f"the content type is '{content_type[:50]}'; send application/json, or binary "
                f"tensors with the header {_HEADER_LENGTH}"
            )
        return None
    if not value.isascii() or not value.isdigit() or len(value) > 12:
        raise BadRequest(f"{_HEADER_LENGTH} is '{value[:20]}', it must be a number of bytes")
    return int(value)


def _readiness(is_ready: bool) -> Response:
    status = HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE
    return JSONResponse({"ready": is_ready}, status)


def _classifier(request: Request) -> Classifier:
    classifier: Classifier = request.app.state.classifier
    return classifier
