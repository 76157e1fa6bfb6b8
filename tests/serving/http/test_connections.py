"""Connections of clients that ask for an upgrade, byte by byte, over both of uvicorn's parsers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from serving.http import connections
from testing.waiting import HANG_S
from tests.serving.http.listening import listening

PARSERS = ("httptools", "h11", "auto")
BODY = b'GET /stolen HTTP/1.1\r\nHost: x\r\n\r\n{"a": [1, 2, 3]}'
CONTENT_LENGTH = b"Content-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(
    b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in (BODY[:7], BODY[7:30], BODY[30:], b"")
)
BODIES = {"length": CONTENT_LENGTH, "chunked": CHUNKED, "none": b"\r\n"}
UPGRADES = (
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
    b"Connection: keep-alive, upgrade\r\nUpgrade: h2c\r\n",
    b"Connection: keep-alive\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n",
    (
        b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    ),
    b"UPGRADE: WebSocket\r\nCONNECTION: UPGRADE\r\n",
    b"Upgrade: TLS/1.0, HTTP/1.1\r\nConnection: Upgrade\r\n",
    b"Upgrade: spdy/3\r\nUpgrade: unheard-of\r\nConnection: x-a,Upgrade ,x-b\r\n",
    b"Upgrade: h2c\r\n",  # without Connection it asks for nothing
    b"Connection: Upgrade\r\n",
)


@asynccontextmanager
async def echo(parser: str) -> AsyncIterator[int]:
    """A server whose answer is what it took for a request: method, path, headers' names, body."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http", scope["type"]
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        answer = f"{scope['method']} {scope['path']} ".encode() + body
        length = [(b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": length})
        await send({"type": "http.response.body", "body": answer})

    async with listening(app, http=parser, lifespan="off") as port:
        yield port


@pytest.fixture(params=PARSERS)
async def port(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[int]:
    for name, protocol in uvicorn.config.HTTP_PROTOCOLS.items():
        monkeypatch.setitem(uvicorn.config.HTTP_PROTOCOLS, name, protocol)  # to have it back
    connections.install()
    async with echo(request.param) as port:
        yield port


async def exchange(port: int, *pieces: bytes) -> bytes:
    """What comes for these bytes, sent piece by piece, until the server has no more to say."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0.002 if len(pieces) < 5 else 0)
    last = b"GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    writer.write(last)
    answer = await asyncio.wait_for(reader.read(), HANG_S)
    writer.close()
    return answer


def answers(received: bytes) -> list[bytes]:
    """The bodies of all answers."""
    told = []
    while received:
        head, _, received = received.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        length = int(re.search(rb"content-length: (\d+)", head)[1])  # type: ignore[index]
        told.append(received[:length])
        received = received[length:]
    return told


@pytest.mark.parametrize("upgrade", UPGRADES)
@pytest.mark.parametrize("kind", BODIES)
async def test_an_upgrade_that_is_not_taken_is_ignored(
    port: int, upgrade: bytes, kind: str
) -> None:
    first = b"POST /first HTTP/1.1\r\nHost: x\r\n" + upgrade + BODIES[kind]
    second = b"PUT /second HTTP/1.1\r\nHost: x\r\n" + upgrade + CONTENT_LENGTH
    head = first.index(b"\r\n\r\n") + 4
    body = b"" if kind == "none" else BODY
    expected = [b"POST /first " + body, b"PUT /second " + BODY, b"GET /last "]
    ways = [
        (first + second,),  # one packet
        (first, second),
        (first[:head], first[head:], second),  # the body after the head
        (first[:-1], first[-1:] + second),
        (*tuple(first[i : i + 1] for i in range(len(first))), second),
    ]
    for pieces in ways:
        assert answers(await exchange(port, *pieces)) == expected, pieces


@pytest.mark.slow
async def test_many_at_once(port: int) -> None:
    one = b"POST /one HTTP/1.1\r\nHost: x\r\n" + UPGRADES[0] + CONTENT_LENGTH
    expected = [b"POST /one " + BODY] * 2000
    assert answers(await exchange(port, one * 2000)) == [*expected, b"GET /last "]


@pytest.mark.parametrize(
    "head",
    [
        b"CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n",
        b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        (
            b"POST /a HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        ),
        (
            b"POST /a HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\n"
            b"Content-Length: 4\r\n\r\nabcd"
        ),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
async def test_what_follows_a_request_that_cannot_be_is_no_request(port: int, head: bytes) -> None:
    received = await exchange(port, head + BODY)
    assert b"/stolen" not in received, received


@pytest.mark.slow
async def test_idle_connections_are_closed_when_the_setting_says(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test of the running service shows that they aren't closed sooner."""
    monkeypatch.setattr(connections.Connection, "keep_alive_s", 65)  # to have it back
    connections.keep_open(1)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answers(await asyncio.wait_for(reader.read(), HANG_S)) == [b"GET /a "]
    writer.close()
