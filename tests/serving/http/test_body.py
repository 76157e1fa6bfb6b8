"""Clients that go while their request is worked on, or never come to its end, over real
connections."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import weakref
from collections.abc import AsyncIterator

import pytest
from starlette.requests import Request
from starlette.types import Message

from serving.core.dataplane import DataPlane
from serving.http.body import CancelledIfGone
from testing.images import coloured_pixels, encode
from testing.waiting import HANG_S
from tests.serving.conftest import StubModel
from tests.serving.http.listening import listening
from tests.serving.http.test_app import app_of

IMAGE = encode(coloured_pixels(1))


@pytest.fixture
async def port(classifier: DataPlane) -> AsyncIterator[int]:
    async with listening(app_of(classifier)) as port:
        yield port


async def send(port: int, body: bytes = IMAGE) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = ["POST /classify HTTP/1.1", "Host: x", "Content-Type: image/png"]
    head.append(f"Content-Length: {len(body)}")
    writer.write("\r\n".join([*head, "", ""]).encode() + body)
    await writer.drain()
    return reader, writer


async def test_work_of_a_client_that_has_gone_never_reaches_the_model(
    port: int, model: StubModel, classifier: DataPlane
) -> None:
    model.free.clear()
    first_reader, first = await send(port)
    while not model.batches:
        await asyncio.sleep(0.01)  # until it runs; what comes now waits
    waiting = [await send(port) for _ in range(5)]
    batcher = classifier.models.current.batcher
    while batcher.queue_depth < 5:
        await asyncio.sleep(0.01)
    for _, writer in waiting[:4]:
        writer.close()
    while classifier.models.current.statistics.failed.count < 4:
        await asyncio.sleep(0.01)
    model.free.set()
    assert b"200 OK" in await waiting[4][0].read(100)
    assert b"200 OK" in await first_reader.read(100)
    assert model.batches == [1, 1]
    for writer in (first, waiting[4][1]):
        writer.close()


async def test_nothing_of_an_answered_request_waits_for_the_garbage_collector() -> None:
    """Hundreds of cycles a second took 40 microseconds a request to find."""

    async def receive() -> Message:
        await asyncio.Event().wait()  # the client stays
        return {"type": "http.disconnect"}

    request = Request({"type": "http"}, receive)
    left = weakref.ref(request)
    gc.disable()
    try:
        async with CancelledIfGone(request):
            await asyncio.sleep(0)  # so that it is watched
        del request, receive
        await asyncio.sleep(0)  # it is cancelled
        await asyncio.sleep(0)  # and forgotten
        assert left() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/classify", "image/png"),
        ("/classify", "multipart/form-data; boundary=x"),
        ("/v2/models/vgg19/infer", "application/json"),
    ],
)
async def test_a_body_that_trickles_is_ended(
    port: int, classifier: DataPlane, monkeypatch: pytest.MonkeyPatch, path: str, kind: str
) -> None:
    limits = dataclasses.replace(classifier.limits, request_timeout_s=0.3)
    monkeypatch.setattr(classifier, "limits", limits)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Type: {kind}", "Content-Length: 1000"]
    writer.write("\r\n".join([*head, "", ""]).encode())
    if kind.startswith("multipart/"):
        writer.write(b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n')

    async def trickle() -> None:
        for _ in range(900):
            writer.write(b"-")
            await asyncio.sleep(0.05)

    trickling = asyncio.create_task(trickle())
    answer = await asyncio.wait_for(reader.read(1000), HANG_S)
    trickling.cancel()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"the body was not there within 0.3 s" in answer
