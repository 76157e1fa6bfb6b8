"""Five times more than fits, on both transports at once, while the model is held."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import grpc
import httpx
import numpy as np
from numpy.typing import NDArray

from protocol.open_inference_pb2_grpc import GRPCInferenceServiceStub
from serving.core.batcher import Batcher
from serving.core.dataplane import DataPlane
from serving.core.decode_budget import DecodeBudget
from serving.core.pool import DesiredVersion, ModelPool
from serving.core.served_model import ServedModel
from serving.core.statistics import ModelStatistics
from serving.engine.session import ModelOutput
from testing.bundles import tiny_probabilities, tiny_spec
from testing.images import coloured_pixels, encode
from testing.waiting import HANG_S
from tests.serving.conftest import LIMITS, context_of, grpc_serving
from tests.serving.grpc.test_servicer import request
from tests.serving.http.test_app import app_of

BATCH, QUEUE = 4, 16
FITS = BATCH + QUEUE
PNG = {"Content-Type": "image/png"}
IMAGE = encode(coloured_pixels(1))


class HeldModel:
    """Takes one batch and keeps it until it is let go."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.go = threading.Event()

    def __call__(self, images: Sequence[NDArray[np.uint8]]) -> list[ModelOutput]:
        self.batches.append(len(images))
        assert self.go.wait(timeout=HANG_S)
        return [ModelOutput(row) for row in tiny_probabilities(np.stack(images))]


async def test_the_rest_is_refused_before_the_model_has_answered_anything() -> None:
    model = HeldModel()
    pool = ModelPool(lambda version: served(version, model), grace_s=5)
    await pool.follow(DesiredVersion("v1"))
    outcomes: list[str] = []
    decoders = DecodeBudget(2)
    classifier = DataPlane(pool, decoders, LIMITS)
    transport = httpx.ASGITransport(app_of(classifier))
    async with (
        httpx.AsyncClient(transport=transport, base_url="http://test", timeout=60) as client,
        grpc_serving(context_of(classifier)) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        stub = GRPCInferenceServiceStub(channel)

        async def by_http() -> None:
            reply = await client.post("/classify", content=IMAGE, headers=PNG)
            outcomes.append("refused" if reply.status_code == 503 else str(reply.status_code))

        async def by_grpc() -> None:
            try:
                await stub.ModelInfer(request(IMAGE))
                outcomes.append("200")
            except grpc.aio.AioRpcError as error:
                refused = error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                outcomes.append("refused" if refused else str(error.code()))

        first = asyncio.create_task(by_http())
        while not model.batches:
            await asyncio.sleep(0.01)
        # One image runs, so a queue's worth is left of what comes now.
        asked = 5 * FITS
        ways = (by_http, by_grpc)
        clients = [asyncio.create_task(one()) for _ in range(asked // 2) for one in ways]
        while len(outcomes) < asked - QUEUE:
            await asyncio.sleep(0.01)
        assert outcomes == ["refused"] * (asked - QUEUE)  # and the model still holds its first
        assert model.batches == [1]
        late = await client.post("/classify", content=b"no image", headers=PNG)
        assert late.status_code == 503  # not 400: nothing is decoded that has no room
        model.go.set()
        await asyncio.gather(first, *clients)
    assert outcomes[asked - QUEUE :] == ["200"] * (QUEUE + 1)
    assert model.batches == [1, BATCH, BATCH, BATCH, BATCH]
    await pool.close()
    decoders.close()


def served(version: str, model: HeldModel) -> ServedModel:
    return ServedModel(
        name="vgg19",
        version=version,
        spec=tiny_spec(),
        metrics={},
        provider="CPUExecutionProvider",
        batcher=Batcher(model, max_batch_size=BATCH, max_queue=QUEUE),
        statistics=ModelStatistics(),
    )
