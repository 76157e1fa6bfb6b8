"""A request that is refused by its head is refused before its body is read, over both of uvicorn's
parsers."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import AsyncIterator

import pytest
import uvicorn
from starlette.types import Message, Receive, Scope, Send

from serving.admission.api_keys import Keys
from serving.core.dataplane import DataPlane
from serving.http import connections
from testing.waiting import HANG_S
from tests.serving.http.listening import listening
from tests.serving.http.test_app import app_of

PATHS = (
    "/classify",
    "/v2/models/vgg19/infer",
    "/feedback",
    "/v2/repository/index",
    "/v2/repository/models/vgg19/load",
)
PIECE = b"x" * 64_000
PIECES = 30
# Bodies: what their head says, how a piece is sent, and the end.
LENGTH = (f"Content-Length: {len(PIECE) * PIECES}\r\n", PIECE, b"")
CHUNKED = ("Transfer-Encoding: chunked\r\n", b"%x\r\n%s\r\n" % (len(PIECE), PIECE), b"0\r\n\r\n")
BODIES = (LENGTH, CHUNKED)
KEYS = ("", "Authorization: Bearer wrong\r\n")
SECRET = hashlib.sha256(b"secret").hexdigest()


@pytest.fixture(params=["httptools", "h11"])
async def port(
    request: pytest.FixtureRequest, classifier: DataPlane, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[int]:
    """Of a service with keys that fails a test whose body it reads."""
    for name, protocol in uvicorn.config.HTTP_PROTOCOLS.items():
        monkeypatch.setitem(uvicorn.config.HTTP_PROTOCOLS, name, protocol)  # to have it back
    connections.install()
    app = app_of(classifier, keys=Keys([SECRET], SECRET))
    read = False

    async def watched(scope: Scope, receive: Receive, send: Send) -> None:
        async def watched_receive() -> Message:
            nonlocal read
            read = True
            return await receive()

        await app(scope, watched_receive, send)

    async with listening(watched, http=request.param, lifespan="off") as port:
        yield port
    assert not read


async def test_without_a_key(port: int) -> None:
    """The connection is good for the next request: what of the body comes is thrown away. Closed,
    a client that is still sending would lose the answer."""
    for path, body, key in itertools.product(PATHS, BODIES, KEYS):
        told, piece, end = body
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n{key}"
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            async with asyncio.timeout(HANG_S):
                writer.write(f"{head}{told}\r\n".encode())
                assert await status(reader) == 401
                for _ in range(PIECES):
                    writer.write(piece)
                    await writer.drain()
                writer.write(end + b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
                assert await status(reader) == 200
        finally:
            writer.close()


async def test_a_client_that_asks_first_sends_nothing(port: int) -> None:
    """As curl does with more than a megabyte."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(HANG_S):
            head = "POST /classify HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
            writer.write(f"{head}{LENGTH[0]}\r\n".encode())
            assert await status(reader) == 401  # not 100
    finally:
        writer.close()


async def status(reader: asyncio.StreamReader) -> int:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    (length,) = (
        int(line.split(":")[1]) for line in head.splitlines() if line.startswith("content-length")
    )
    await reader.readexactly(length)
    return int(head.split()[1])
