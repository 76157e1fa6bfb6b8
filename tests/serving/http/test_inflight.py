"""What bodies hold is bounded, by counts: bodies are fed piece by piece."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.types import Message

from serving.core.dataplane import DataPlane
from serving.core.inflight import InFlightBytes
from serving.http.form import parsed_form
from testing.images import coloured_pixels, encode
from tests.serving.conftest import context_of
from tests.serving.http.test_app import app_of, check_problem

IMAGE = encode(coloured_pixels(1))
PNG = {"Content-Type": "image/png"}
LIMIT = 30_000


@pytest.fixture
def bodies() -> InFlightBytes:
    return InFlightBytes(LIMIT)


@pytest.fixture
async def client(classifier: DataPlane, bodies: InFlightBytes) -> AsyncIterator[httpx.AsyncClient]:
    app = app_of(classifier)
    app.state.context = context_of(classifier, bodies=bodies)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


@pytest.mark.parametrize("way", ["declared", "chunked", "json", "form"])
async def test_what_does_not_fit_is_refused_at_once_and_fits_later(
    client: httpx.AsyncClient, bodies: InFlightBytes, way: str
) -> None:
    """While others hold most of the room, whichever way a body comes."""
    gate, held = asyncio.Event(), asyncio.Event()

    async def slow_body() -> AsyncIterator[bytes]:
        yield b"x" * 15_000
        yield b"x" * 4000
        held.set()
        await gate.wait()
        yield b"x"

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(6):
            yield b"x" * 3000

    async def ask() -> httpx.Response:
        if way == "json":
            path = "/v2/models/vgg19/infer"
            return await client.post(path, json={"inputs": ["x" * 18_000]})
        if way == "form":
            return await client.post("/classify", files={"image": b"x" * 18_000})
        content = chunks() if way == "chunked" else b"x" * 18_000
        return await client.post("/classify", content=content, headers=PNG)

    slow = asyncio.create_task(client.post("/classify", content=slow_body(), headers=PNG))
    await held.wait()
    await asyncio.sleep(0)
    for _ in range(20):
        reply = await ask()
        check_problem(reply, 503, "VGG19_MAX_INFLIGHT_BYTES")
        assert (reply.headers["retry-after"], reply.headers["connection"]) == ("1", "close")
        assert bodies.held == 19_000  # what was refused holds nothing
    assert (await client.post("/classify", content=IMAGE, headers=PNG)).status_code == 200
    gate.set()
    assert (await slow).status_code == 400  # no image
    assert bodies.held == 0
    assert (await ask()).status_code in (400, 422)
    assert bodies.held == 0


@pytest.mark.parametrize("length", ["30001", "99999999999", "9" * 19, "9" * 30])
async def test_what_would_never_fit_is_too_large(client: httpx.AsyncClient, length: str) -> None:
    headers = {**PNG, "Content-Length": length}
    check_problem(await client.post("/classify", content=IMAGE, headers=headers), 413, "the limit")


@pytest.mark.parametrize("size", [10, 1_000_000, 1_100_000, 30_000_000])
async def test_a_form_is_not_written_to_disk(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """A part above 1 MB was: in a container, to a tmpfs of fixed size."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a file is made in /tmp")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)  # what a spooled file rolls over to
    files = [("image", (f"{n}.png", bytes(size), "image/png")) for n in range(2)]
    sent = httpx.Request("POST", "http://test", files=files)
    scope = {"type": "http", "headers": [(k.lower(), v) for k, v in sent.headers.raw]}

    async def receive() -> Message:
        return {"type": "http.request", "body": sent.read(), "more_body": False}

    async with parsed_form(Request(scope, receive), 2) as form:
        uploads = form.getlist("image")
        assert [len(await one.read()) for one in uploads if isinstance(one, UploadFile)] == [
            size,
            size,
        ]
