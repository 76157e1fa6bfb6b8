"""Errors as `application/problem+json` (RFC 9457)."""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from serving.core.errors import (
    INTERNAL_ERROR,
    BadImage,
    BadRequest,
    Conflict,
    DeadlineExceeded,
    NoRoomForBody,
    NotFound,
    Overloaded,
    RateLimited,
    RequestError,
    ShuttingDown,
    SlowBody,
    TooLarge,
    Unauthenticated,
    UnknownModel,
    UnsupportedMedia,
)
from serving.observability import telemetry

MEDIA_TYPE = "application/problem+json"

_STATUS: dict[type[RequestError], HTTPStatus] = {
    BadImage: HTTPStatus.BAD_REQUEST,
    BadRequest: HTTPStatus.UNPROCESSABLE_ENTITY,
    UnsupportedMedia: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    TooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    UnknownModel: HTTPStatus.NOT_FOUND,
    NotFound: HTTPStatus.NOT_FOUND,
    Unauthenticated: HTTPStatus.UNAUTHORIZED,
    Conflict: HTTPStatus.CONFLICT,
    RateLimited: HTTPStatus.TOO_MANY_REQUESTS,
    Overloaded: HTTPStatus.SERVICE_UNAVAILABLE,
    ShuttingDown: HTTPStatus.SERVICE_UNAVAILABLE,
    DeadlineExceeded: HTTPStatus.GATEWAY_TIMEOUT,
    SlowBody: HTTPStatus.REQUEST_TIMEOUT,
}


async def on_request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    record = telemetry.current()
    if record is not None:
        record.outcome = error.outcome
    status = next(_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS)
    headers = {}
    if status is HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = "1"
    if isinstance(error, TooLarge | SlowBody | NoRoomForBody):
        headers["Connection"] = "close"  # or what is left of the body would still be received
    if isinstance(error, RateLimited):
        headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    return problem(request, status, str(error), headers)


async def on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    record = telemetry.current()
    if record is not None:
        record.outcome = BadRequest.outcome
    status = HTTPStatus(error.status_code)
    return problem(request, status, error.detail, dict(error.headers or {}))


async def on_disconnect(_: Request, __: Exception) -> Response:
    record = telemetry.current()
    if record is not None:
        record.outcome = "cancelled"
    return Response(status_code=HTTPStatus.BAD_REQUEST)  # nobody is there to read it


async def on_internal_error(request: Request, __: Exception) -> Response:
    return problem(request, HTTPStatus.INTERNAL_SERVER_ERROR, INTERNAL_ERROR)


HANDLERS: dict[Any, Any] = {
    RequestError: on_request_error,
    HTTPException: on_http_exception,
    ClientDisconnect: on_disconnect,
    Exception: on_internal_error,
}


def problem(
    request: Request, status: HTTPStatus, detail: str, headers: dict[str, str] | None = None
) -> JSONResponse:
    """A problem without a type of its own. In the v2 protocol `error` says the same."""
    content: dict[str, Any] = {
        "type": "about:blank",
        "title": status.phrase,
        "status": int(status),
        "detail": detail,
    }
    if request.url.path.startswith("/v2"):
        content["error"] = detail
    return JSONResponse(content, status, headers, media_type=MEDIA_TYPE)
