"""A real service, and more pixels than it can decode."""

from __future__ import annotations

import asyncio
import io
from collections import Counter
from pathlib import Path

import grpc
import httpx
from PIL import Image

from benchmarks.serving.load import infer_request
from protocol.open_inference_pb2_grpc import GRPCInferenceServiceStub
from testing import patient
from testing.images import coloured_pixels, encode
from testing.server import make_home, serve

PNG = {"Content-Type": "image/png"}
QUEUE = 8


def large_png() -> bytes:
    """25 megapixels, in 25 kB."""
    buffer = io.BytesIO()
    Image.new("RGB", (5000, 5000), (200, 30, 40)).save(buffer, "PNG")
    return buffer.getvalue()


async def test_60_large_images_are_answered_or_refused_and_small_ones_answered(
    tmp_path: Path,
) -> None:
    """Against a queue of 8, 59 of 60 timed out, and the small ones beside them."""
    large, small = large_png(), encode(coloured_pixels(1))
    settings = {
        "VGG19_MAX_QUEUE_IMAGES": str(QUEUE),
        "VGG19_MAX_REQUEST_IMAGES": "4",
        "VGG19_REQUEST_TIMEOUT_MS": "300000",
        "VGG19_MAX_DECODE_PIXELS": "30000000",
    }
    with serve(make_home(tmp_path), tmp_path / "log", **settings) as server:
        async with (
            patient.async_client(limits=httpx.Limits(max_connections=100)) as client,
            grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel,
        ):
            stub = GRPCInferenceServiceStub(channel)
            classify = f"{server.url}/classify"

            async def by_http() -> str:
                reply = await client.post(classify, content=large, headers=PNG)
                return {200: "answered", 503: "refused"}.get(reply.status_code, reply.text)

            async def by_grpc() -> str:
                try:
                    await stub.ModelInfer(infer_request(large))
                except grpc.aio.AioRpcError as error:
                    resources = grpc.StatusCode.RESOURCE_EXHAUSTED
                    return "refused" if error.code() is resources else str(error)
                return "answered"

            asking = [asyncio.create_task(way()) for _ in range(30) for way in (by_http, by_grpc)]
            outcomes = Counter(await asyncio.gather(*asking))
            assert set(outcomes) == {"answered", "refused"}, outcomes
            assert outcomes["answered"] >= QUEUE

            # Half of the room is taken by large ones: the small ones go past them.
            held = [asyncio.create_task(by_http()) for _ in range(QUEUE - 2)]
            for _ in range(5):
                reply = await client.post(classify, content=small, headers=PNG)
                assert reply.status_code == 200
            assert set(await asyncio.gather(*held)) == {"answered"}
        memory = max(process.memory_info().rss for process in server.children())
        assert memory < 700_000_000  # one image of 25 megapixels at a time, not one for each client
