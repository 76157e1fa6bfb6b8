"""Open Inference Protocol v2 over HTTP: converts, and nothing else."""

from __future__ import annotations

from functools import partial
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from serving import __version__
from serving.context import ServiceContext
from serving.core.errors import BadRequest, NotFound, UnknownModel
from serving.core.served_model import ServedModel
from serving.core.tensors import LARGE_ANSWER, answer_size
from serving.http.body import (
    BodyWithin,
    CancelledIfGone,
    check_json_type,
    json_object,
    read_body,
    timeout_s,
)
from serving.open_inference import json_codec
from serving.open_inference.metadata import (
    model_config,
    model_metadata,
    model_statistics,
    server_metadata,
)

_HEADER_LENGTH = "Inference-Header-Content-Length"
# Smaller ones are read in the event loop: within a millisecond, and a thread costs a tenth of one.
_LARGE_BODY = 100_000


def routes() -> list[Route]:
    model = "/v2/models/{name}"
    version = model + "/versions/{version}"
    return [
        Route("/v2", server),
        Route("/v2/health/live", live),
        Route("/v2/health/ready", ready),
        Route("/v2/models/stats", statistics),  # before {name}
        Route(model, metadata),
        Route(version, metadata),
        *(
            Route(path + end, endpoint)
            for path in (model, version)
            for end, endpoint in (("/config", config), ("/stats", statistics))
        ),
        Route(model + "/ready", model_ready),
        Route(version + "/ready", model_ready),
        *(
            Route(
                "/v2/" + kind + "sharedmemory/{rest:path}",
                shared_memory,
                methods=["GET", "POST"],
                include_in_schema=False,
            )
            for kind in ("system", "cuda")
        ),
        Route(model + "/infer", infer, methods=["POST"]),
        Route(version + "/infer", infer, methods=["POST"]),
    ]


def admin_routes() -> list[Route]:
    """The model repository extension, behind the admin key (`serving.admission.api_keys`)."""
    model = "/v2/repository/models/{name}"
    return [
        Route("/v2/repository/index", index, methods=["POST"]),
        Route(model + "/load", load, methods=["POST"]),
        Route(model + "/unload", unload, methods=["POST"]),
    ]


async def server(_: Request) -> Response:
    return JSONResponse(server_metadata(__version__))


async def shared_memory(_: Request) -> Response:
    raise NotFound(
        "this service doesn't read or write shared memory; send and receive tensors in the "
        "requests themselves"
    )


async def live(request: Request) -> Response:
    is_alive = _context(request).is_alive()
    status = HTTPStatus.OK if is_alive else HTTPStatus.SERVICE_UNAVAILABLE
    return JSONResponse({"live": is_alive}, status)


async def ready(request: Request) -> Response:
    return _readiness(_context(request).is_ready())


async def metadata(request: Request) -> Response:
    model = _model(request)
    versions = _context(request).classifier.models.versions
    return JSONResponse(model_metadata(model, versions))


async def config(request: Request) -> Response:
    return JSONResponse(model_config(_model(request)))


async def statistics(request: Request) -> Response:
    path = request.path_params
    models = _context(request).classifier.models.find(path.get("name", ""), path.get("version", ""))
    return JSONResponse(model_statistics(models))


async def model_ready(request: Request) -> Response:
    try:
        _model(request)
    except UnknownModel:
        return _readiness(False)
    return _readiness(True)


async def infer(request: Request) -> Response:
    check_json_type(request)
    classifier = _context(request).classifier
    limits = classifier.limits
    deadline = limits.deadline(timeout_s(request))
    _model(request)
    length = _header_length(request)
    async with BodyWithin(deadline):
        body = await read_body(request, limits.max_request_bytes)
    async with CancelledIfGone(request):
        read = partial(
            json_codec.read_request, body, length, limits,
            version=request.path_params.get("version", ""), deadline=deadline,
        )  # fmt: skip
        asked = read() if len(body) < _LARGE_BODY else await deadline.off_loop(read)
        del body, read  # the images have been copied out of it
        answer = await classifier.infer(asked)
        write = partial(json_codec.write_response, asked, answer)
        is_large = answer_size(answer, asked.outputs) > LARGE_ANSWER
        content, header_length = await deadline.off_loop(write) if is_large else write()
    if header_length is None:
        return Response(content, media_type="application/json")
    return Response(
        content,
        media_type="application/octet-stream",
        headers={_HEADER_LENGTH: str(header_length)},
    )


async def index(request: Request) -> Response:
    """`POST /v2/repository/index`: every registered version, and which are loaded."""
    body = await json_object(request)
    only_ready = body.get("ready")  # null is absence, here and below
    if not isinstance(only_ready, bool | None):
        raise BadRequest("'ready' must be true or false")
    entries = await _context(request).repository.index(only_ready=bool(only_ready))
    return JSONResponse([vars(entry) for entry in entries])


async def load(request: Request) -> Response:
    """`POST /v2/repository/models/vgg19/load`: the parameter `version` names which."""
    repository = _context(request).repository
    await repository.load(request.path_params["name"], await _version_parameter(request))
    return JSONResponse({})


async def unload(request: Request) -> Response:
    repository = _context(request).repository
    await repository.unload(request.path_params["name"], await _version_parameter(request))
    return JSONResponse({})


async def _version_parameter(request: Request) -> str:
    """From the body {"parameters": {"version": "..."}}; "" if there is none."""
    parameters = (await json_object(request)).get("parameters")
    version = parameters.get("version") if isinstance(parameters, dict) else parameters
    if not isinstance(parameters, dict | None) or not isinstance(version, str | None):
        raise BadRequest(
            'a version is named by {"parameters": {"version": "20260131-120000-1a2b3c"}}'
        )
    return version or ""


def _header_length(request: Request) -> int | None:
    value = request.headers.get(_HEADER_LENGTH)
    if value is None:
        return None
    if not value.isascii() or not value.isdigit() or len(value) > 12:
        raise BadRequest(f"{_HEADER_LENGTH} is '{value[:20]}', it must be a number of bytes")
    return int(value)


def _readiness(is_ready: bool) -> Response:
    status = HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE
    return JSONResponse({"ready": is_ready}, status)


def _context(request: Request) -> ServiceContext:
    context: ServiceContext = request.app.state.context
    return context


def _model(request: Request) -> ServedModel:
    """The one that the path names."""
    models = _context(request).classifier.models
    return models.get(request.path_params["name"], request.path_params.get("version", ""))
