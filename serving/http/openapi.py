"""The interface described by itself: OpenAPI 3.1 at `/openapi.json`, and a page that renders it."""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from serving import __version__
from serving.http import errors, schema
from serving.http.classify import DEFAULT_TOP_K, MAX_TOP_K

_JSON = "application/json"
_BINARY = "application/octet-stream"
# BentoML serves Swagger UI's files itself, so the page works offline.
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>VGG-19 service: interface</title>
<link rel="stylesheet" href="static_content/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="static_content/swagger-ui-bundle.js"></script>
<script>SwaggerUIBundle({url: "openapi.json", dom_id: "#swagger-ui", deepLinking: true});</script>
</body>
</html>
"""
_PAGE_BELOW = _PAGE.replace("<title>", '<base href="../">\n<title>')
_PROBLEMS = {
    400: "an image can't be decoded",
    401: "no API key, or a wrong one",
    404: "no such model, version or image",
    409: "not possible in the state that the service is in",
    408: "the body was not there within the time limit",
    413: "more bytes, pixels or images than the limits allow",
    415: "a content type that isn't accepted",
    422: "a parameter or a field has a value that isn't allowed",
    429: "this client asks too often; see Retry-After",
    503: "the queue is full or the service ends; see Retry-After",
    504: "no answer within the time limit",
}
_ANY = (401, 429)
_READ = (408, 413, 415, 422)  # of those that have a body
_WORK = (400, *_ANY, *_READ, 503, 504)

Json = dict[str, Any]


def routes() -> list[Route]:
    return [
        Route("/openapi.json", document_view),
        Route("/docs.json", document_view, include_in_schema=False),  # where BentoML has its own
        Route("/docs", page, include_in_schema=False),
    ]


async def document_view(_: Request) -> Response:
    return JSONResponse(document())


async def page(request: Request) -> Response:
    """Under `/docs/`, too, from where its files are a step up."""
    is_below = request.scope.get("raw_path", b"").endswith(b"/")
    return HTMLResponse(_PAGE_BELOW if is_below else _PAGE)


@cache
def document() -> Json:
    """The OpenAPI document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "VGG-19 classification",
            "version": __version__,
            "description": "Classifies images with a fine-tuned VGG-19. The same interface is there"
            " over gRPC (`inference.GRPCInferenceService`).",
        },
        "paths": _classification() | _protocol() | _repository(),
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _classification() -> Json:
    binary = {"type": "string", "format": "binary"}
    form = {
        "type": "object",
        "properties": {
            "image": {"type": "array", "items": binary, "minItems": 1},
            "top_k": {"type": "integer", "minimum": 1, "maximum": MAX_TOP_K},
            "threshold": {"type": "number", "minimum": 0, "maximum": 1},
            "explain": {"type": "boolean"},
            "target": {"type": "string"},
        },
        "required": ["image"],
    }
    body = {
        "required": True,
        "content": {
            "image/*": {"schema": binary},
            _BINARY: {"schema": binary},
            "multipart/form-data": {"schema": form},
        },
    }
    parameters = [
        _query(
            "top_k",
            {"type": "integer", "minimum": 1, "maximum": MAX_TOP_K, "default": DEFAULT_TOP_K},
            "labels for each image",
        ),
        _query(
            "threshold",
            {"type": "number", "minimum": 0, "maximum": 1, "default": 0},
            "smallest probability",
        ),
        _query(
            "explain",
            {"type": "boolean", "default": False},
            "with a heat map of each image (takes about as long again)",
        ),
        _query(
            "target",
            {"type": "string"},
            "the label that heat maps are of; without one, each image's most probable",
        ),
        _TIMEOUT,
    ]
    classify = _operation(
        "classify", "Classify images", schema.ClassifyReply, _WORK, body=body, parameters=parameters
    )
    feedback = _operation(
        "feedback", "Correct the label of a captured image (VGG19_CAPTURE)",
        schema.FeedbackReply, (*_ANY, 404, *_READ),
        body=_json_body(schema.FeedbackRequest, required=True),
    )  # fmt: skip
    return {
        "/classify": {"post": classify},
        "/model": {"get": _operation("model", "The model that is served", schema.ModelReply, _ANY)},
        "/labels": {"get": _operation("labels", "The classes", schema.LabelsReply, _ANY)},
        "/feedback": {"post": feedback},
        "/overview": {
            "get": _operation(
                "overview", "What the page shows of production", schema.OverviewReply, (*_ANY, 503)
            )
        },
        "/drift": {
            "get": _operation(
                "drift",
                "How answers differ from the validation images",
                schema.DriftReply,
                (*_ANY, 404),
            )
        },
        "/openapi.json": {
            "get": {
                "operationId": "openapi",
                "summary": "This document",
                "responses": {"200": {"description": "OpenAPI 3.1", "content": {_JSON: {}}}},
            }
        },
    }


def _protocol() -> Json:
    unready = {
        "503": {"description": "not ready", "content": {_JSON: {"schema": _ref(schema.ReadyReply)}}}
    }
    dead = {
        "503": {"description": "it hangs", "content": {_JSON: {"schema": _ref(schema.LiveReply)}}}
    }
    paths: Json = {
        "/v2": {"get": _operation("server", "The server", schema.ServerReply)},
        "/v2/health/live": {"get": _operation("live", "Is it up?", schema.LiveReply, extra=dead)},
        "/v2/health/ready": {
            "get": _operation("ready", "Ready for requests?", schema.ReadyReply, extra=unready)
        },
        "/v2/models/stats": {
            "get": _operation(
                "all_statistics", "Statistics of every model", schema.StatisticsReply, _ANY
            )
        },
    }
    for where, parameters in (("", [_NAME]), ("/versions/{version}", [_NAME, _VERSION])):
        path = "/v2/models/{name}" + where
        suffix = "_of_version" if where else ""

        def read(
            name: str,
            summary: str,
            reply: type[BaseModel],
            *problems: int,
            suffix: str = suffix,
            parameters: list[Json] = parameters,
            **more: Json,
        ) -> Json:
            operation = _operation(
                name + suffix, summary, reply, (*_ANY, *problems), parameters=parameters, **more
            )
            return {"get": operation}

        paths[path] = read("metadata", "Its tensors", schema.ModelMetadataReply, 404)
        paths[path + "/config"] = read("config", "How it is run", schema.ModelConfigReply, 404)
        paths[path + "/stats"] = read("statistics", "Its counts", schema.StatisticsReply, 404)
        paths[path + "/ready"] = read("model_ready", "Ready?", schema.ReadyReply, extra=unready)
        paths[path + "/infer"] = {"post": _infer("infer" + suffix, parameters)}
    return paths


def _infer(name: str, parameters: list[Json]) -> Json:
    length = {
        "name": "Inference-Header-Content-Length",
        "in": "header",
        "schema": {"type": "integer", "minimum": 1},
        "description": "bytes of the JSON before binary tensors",
    }
    body = {
        "required": True,
        "content": {
            _JSON: {"schema": _ref(schema.InferRequest)},
            _BINARY: {"schema": {"type": "string", "format": "binary"}},
        },
    }
    operation = _operation(
        name, "Infer", schema.InferReply, (*_WORK, 404), body=body,
        parameters=[*parameters, length, _TIMEOUT],
    )  # fmt: skip
    operation["responses"]["200"]["content"][_BINARY] = {
        "schema": {"type": "string", "format": "binary"}
    }
    return operation


def _repository() -> Json:
    """There only if an admin key is set."""
    problems = (401, 404, 409, *_READ)
    path = "/v2/repository/models/{name}"
    listed = _operation(
        "index", "Registered versions (admin)", schema.IndexEntryReply, (401, 404, *_READ),
        body=_json_body(schema.IndexRequest),
    )  # fmt: skip
    content = listed["responses"]["200"]["content"][_JSON]
    content["schema"] = {"type": "array", "items": content["schema"]}
    back = _operation(
        "rollback", "Have production serve what it served before (admin)", schema.RollbackReply,
        (401, 404, 409, *_READ, 503), body=_json_body(schema.RollbackRequest, required=True),
    )  # fmt: skip
    differing = _operation(
        "differing", "Images on which production and its shadow differ (admin)",
        schema.DifferingReply, (401, 404, 409, 503),
    )  # fmt: skip
    paths: Json = {
        "/v2/repository/index": {"post": listed},
        "/rollback": {"post": back},
        "/overview/differing": {"get": differing},
    }
    for verb in ("load", "unload"):
        operation = _operation(
            verb, f"{verb.capitalize()} a version (admin)", None, problems,
            body=_json_body(schema.RepositoryRequest), parameters=[_NAME],
        )  # fmt: skip
        paths[f"{path}/{verb}"] = {"post": operation}
    return paths


def _operation(
    name: str,
    summary: str,
    reply: type[BaseModel] | None,
    problems: tuple[int, ...] = (),
    *,
    body: Json | None = None,
    parameters: list[Json] | None = None,
    extra: Json | None = None,
) -> Json:
    content = {"type": "object"} if reply is None else _ref(reply)
    responses: Json = {"200": {"description": summary, "content": {_JSON: {"schema": content}}}}
    for status in sorted(problems):
        problem = {errors.MEDIA_TYPE: {"schema": _ref(schema.Problem)}}
        responses[str(status)] = {"description": _PROBLEMS[status], "content": problem}
    operation: Json = {
        "operationId": name,
        "summary": summary,
        "responses": responses | (extra or {}),
    }
    if body is not None:
        operation["requestBody"] = body
    if parameters:
        operation["parameters"] = parameters
    return operation


def _json_body(model: type[BaseModel], *, required: bool = False) -> Json:
    return {"required": required, "content": {_JSON: {"schema": _ref(model)}}}


def _query(name: str, values: Json, description: str) -> Json:
    return {"name": name, "in": "query", "schema": values, "description": description}


def _path(name: str, description: str) -> Json:
    parameter = {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
    return parameter | {"description": description}


_NAME = _path("name", "of the model") | {"example": "vgg19"}
_VERSION = _path("version", "a loaded one")
_TIMEOUT: Json = {
    "name": "X-Request-Timeout-Ms",
    "in": "header",
    "schema": {"type": "number", "exclusiveMinimum": 0},
    "description": "the client's own time limit",
}
_REF = "#/components/schemas/{model}"


def _ref(model: type[BaseModel]) -> Json:
    return {"$ref": _REF.format(model=model.__name__)}


def _schemas() -> Json:
    bodies = [
        value
        for name, value in vars(schema).items()
        if isinstance(value, type)
        and issubclass(value, BaseModel)
        and not name.startswith("_")
        and value is not BaseModel
    ]
    _, definitions = models_json_schema(
        [(body, "serialization") for body in bodies], ref_template=_REF
    )
    schemas: Json = definitions["$defs"]
    return schemas
