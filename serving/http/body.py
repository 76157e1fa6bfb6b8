"""What all HTTP routes read alike: a body up to a limit, the client's own time limit, and whether
the client is still there."""

from __future__ import annotations

import asyncio
import json
import math
from types import TracebackType
from typing import Any

from pydantic_core import to_json
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message

from serving.core.errors import BadRequest, SlowBody, TooLarge, UnsupportedMedia
from serving.core.requests import Deadline

_TIMEOUT_HEADER = "X-Request-Timeout-Ms"
_MAX_JSON_BYTES, _JSON_BODY_S = 100_000, 30.0


def limit_body(request: Request, max_bytes: int) -> Request:
    """The same request, whose body is read up to `max_bytes` and no further.

    Raises:
        TooLarge: at once if its declared length is above, or while more than that is read.
    """
    _check_declared(request, max_bytes)
    received = 0

    async def receive() -> Message:
        nonlocal received
        message = await request.receive()
        received += len(message.get("body", b""))
        _check_received(received, max_bytes)
        return message

    return Request(request.scope, receive)


_SMALL_PART = 4_096


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The whole body.

    Raises:
        TooLarge: see `limit_body`.
        ClientDisconnect: the client has gone before its end.
    """
    _check_declared(request, max_bytes)
    message = await _next_part(request)
    part: bytes = message.get("body", b"")
    if not message.get("more_body", False):  # as of most images: nothing is copied
        _check_received(len(part), max_bytes)
        return part
    parts, small, received = [part], bytearray(), len(part)
    while message.get("more_body", False):
        message = await _next_part(request)
        part = message.get("body", b"")
        received += len(part)
        _check_received(received, max_bytes)
        if len(part) >= _SMALL_PART:  # as uvicorn reads: joined once, at the end
            parts += (bytes(small), part)
            small.clear()
        else:  # a list of them would hold 40 bytes for each that comes alone
            small += part
    return b"".join((*parts, small))


async def _next_part(request: Request) -> Message:
    message = await request.receive()
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    return message


class BodyWithin:
    """Around the reading of a body: a client that trickles it doesn't hold a connection for ever.

    Raises:
        SlowBody: it was not there in time.
    """

    def __init__(self, deadline: Deadline) -> None:
        self._deadline = deadline
        self._timeout = asyncio.timeout_at(deadline.at)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self._timeout.__aexit__(kind, error, traceback)
        except TimeoutError:
            raise SlowBody(
                f"the body was not there within {self._deadline.limit_s:g} s; send it faster, or "
                "less in one request"
            ) from None


def check_json_type(request: Request) -> None:
    """Raise UnsupportedMedia where a content type is told that is none of JSON."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    # Triton's asyncio client sends JSON as application/octet-stream.
    if content_type not in ("application/json", "application/octet-stream", ""):
        raise UnsupportedMedia(
            f"the content type is '{content_type[:50]}'; send application/json, or to a v2 infer "
            "application/octet-stream with binary tensors"
        )


async def json_object(request: Request) -> dict[str, Any]:
    """A small body; {} if there is none.

    Raises:
        UnsupportedMedia: see `check_json_type`.
        TooLarge, SlowBody, BadRequest: it is too large, too slow, or no JSON object.
    """
    check_json_type(request)
    async with BodyWithin(Deadline.within(_JSON_BODY_S)):
        body = await read_body(request, _MAX_JSON_BYTES)
    try:
        content = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        raise BadRequest("the body is not JSON") from None
    if not isinstance(content, dict):
        raise BadRequest("the body must be a JSON object")
    return content


class CancelledIfGone:
    """Around the work for a request whose body is read: cancelled when the client has gone.

    Raises:
        ClientDisconnect: it has.
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        self._is_gone = False

    async def __aenter__(self) -> None:
        working = asyncio.current_task()
        assert working is not None
        self._working = working
        self._watching = asyncio.create_task(self._watch())

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._watching.cancel()
        # The task keeps its CancelledError, whose traceback holds `self`: else a cycle around the
        # request and its answer, which only the garbage collector would end.
        del self._watching
        if kind is asyncio.CancelledError and self._is_gone and self._working.uncancel() == 0:
            raise ClientDisconnect from None

    async def _watch(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass
        self._is_gone = True
        self._working.cancel()


def json_response(content: Any) -> Response:
    """As Starlette's JSONResponse, without an encoder of its own for each."""
    return Response(to_json(content), media_type="application/json")


def timeout_s(request: Request) -> float | None:
    """The client's own time limit, from `X-Request-Timeout-Ms`.

    Raises:
        BadRequest: it is no number above 0.
    """
    value = request.headers.get(_TIMEOUT_HEADER)
    if value is None:
        return None
    milliseconds = number(value)
    if not 0 < milliseconds < math.inf:
        raise BadRequest(f"{_TIMEOUT_HEADER} is '{value[:20]}', it must be a number above 0")
    return milliseconds / 1000


def number(value: str) -> float:
    """A number as text; NaN for anything else."""
    try:
        return float(value)
    except ValueError:
        return math.nan


def _check_declared(request: Request, max_bytes: int) -> None:
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > max_bytes:
        raise _too_large(int(declared), max_bytes)


def _check_received(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise _too_large(size, max_bytes)


def _too_large(size: int, max_bytes: int) -> TooLarge:
    return TooLarge(
        f"the body has {size:,} bytes or more, the limit is {max_bytes:,} (VGG19_MAX_IMAGE_BYTES "
        "for one image, VGG19_MAX_REQUEST_BYTES for a request)"
    )
