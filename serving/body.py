"""What all HTTP routes read alike: a body up to a limit, the client's own time limit, and whether
the client is still there."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from serving.errors import BadRequest, TooLarge

_TIMEOUT_HEADER = "X-Request-Timeout-Ms"
_MAX_JSON_BYTES = 100_000


def limit_body(request: Request, max_bytes: int) -> Request:
    """The same request, whose body is read up to `max_bytes` and no further.

    Raises:
        TooLarge: at once if its declared length is above, or while more than that is read.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > max_bytes:
        raise _too_large(int(declared), max_bytes)
    received = 0

    async def receive() -> Message:
        nonlocal received
        message = await request.receive()
        received += len(message.get("body", b""))
        if received > max_bytes:
            raise _too_large(received, max_bytes)
        return message

    return Request(request.scope, receive)


async def json_object(request: Request) -> dict[str, Any]:
    """A small body; {} if there is none.

    Raises:
        TooLarge, BadRequest: it is too large, or no JSON object.
    """
    body = await limit_body(request, _MAX_JSON_BYTES).body()
    try:
        content = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        raise BadRequest("the body is no JSON") from None
    if not isinstance(content, dict):
        raise BadRequest("the body must be a JSON object")
    return content


@asynccontextmanager
async def cancelled_if_gone(request: Request) -> AsyncIterator[None]:
    """Around the work for a request whose body is read: cancelled when the client has gone.

    Raises:
        ClientDisconnect: it has.
    """
    working = asyncio.current_task()
    assert working is not None
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await request.receive())["type"] != "http.disconnect":
            pass
        gone = True
        working.cancel()

    watching = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if gone and working.uncancel() == 0:
            raise ClientDisconnect from None
        raise
    finally:
        watching.cancel()


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


def _too_large(size: int, max_bytes: int) -> TooLarge:
    return TooLarge(
        f"the body has {size:,} bytes or more, the limit is {max_bytes:,} (VGG19_MAX_IMAGE_BYTES "
        "for one image)"
    )
