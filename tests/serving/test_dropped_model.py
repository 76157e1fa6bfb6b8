"""A dropped model leaves the process's memory although nobody asks any more, and clients keep their
connections open."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import httpx
import pytest
import uvicorn
from prometheus_client import CollectorRegistry

from models.monitoring.watch import Rules
from protocol import open_inference_pb2 as pb
from protocol.open_inference_pb2_grpc import GRPCInferenceServiceStub
from serving.core.dataplane import DataPlane
from serving.core.decode_budget import DecodeBudget
from serving.core.pool import DesiredVersion, ModelPool
from serving.observability.drift import DriftMonitor
from serving.observability.drift_metrics import DriftMetrics
from testing.images import coloured_pixels, encode
from testing.ports import free_port
from testing.waiting import HANG_S
from tests.serving.conftest import LIMITS, StubModel, context_of, grpc_serving, served, telemetry_of
from tests.serving.http.test_app import app_of

_IMAGE = encode(coloured_pixels(0))


@pytest.fixture
async def pool() -> AsyncIterator[ModelPool]:
    pool = ModelPool(lambda version: served(version, StubModel()), grace_s=1)
    await pool.follow(DesiredVersion("v1"))
    yield pool
    await pool.close()


@pytest.fixture
async def plane(pool: ModelPool, tmp_path: Path) -> AsyncIterator[DataPlane]:
    registry, budget = CollectorRegistry(), DecodeBudget(1)
    drift = DriftMonitor(tmp_path, DriftMetrics(registry), window=100, rules=Rules(0.01))
    drift.adopt(pool.current)
    telemetry = telemetry_of(registry, drift=drift)
    yield DataPlane(pool, budget, LIMITS, telemetry.on_answer, measures=True)
    await drift.close()
    budget.close()


async def _is_dropped(pool: ModelPool) -> None:
    old = weakref.ref(pool.current)
    await pool.follow(DesiredVersion("v2"))
    async with asyncio.timeout(HANG_S):
        while old() is not None:
            await asyncio.sleep(0.01)


@asynccontextmanager
async def _http_server(plane: DataPlane) -> AsyncIterator[str]:
    """The URL of one that keeps connections for longer than a test lasts."""
    app = app_of(plane, telemetry=telemetry_of())
    port = free_port()
    keep_alive_s = int(10 * HANG_S)
    config = uvicorn.Config(
        app, port=port, log_level="critical", lifespan="off", timeout_keep_alive=keep_alive_s
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await serving


async def test_it_is_not_held_by_an_http_connection(plane: DataPlane, pool: ModelPool) -> None:
    async with _http_server(plane) as url, httpx.AsyncClient(base_url=url) as client:
        reply = await client.post(
            "/classify", content=_IMAGE, headers={"Content-Type": "image/png"}
        )
        assert reply.json()["model_version"] == "v1"
        await _is_dropped(pool)
        reply = await client.get("/model")  # over the same connection
        assert reply.json()["loaded_versions"] == ["v2"]


async def test_it_is_not_held_by_a_grpc_channel(plane: DataPlane, pool: ModelPool) -> None:
    async with (
        grpc_serving(context_of(plane)) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        stub = GRPCInferenceServiceStub(channel)
        image = pb.ModelInferRequest.InferInputTensor(name="image", datatype="BYTES", shape=[1])
        image.contents.bytes_contents.append(_IMAGE)
        reply = await stub.ModelInfer(pb.ModelInferRequest(model_name="vgg19", inputs=[image]))
        assert reply.model_version == "v1"
        await _is_dropped(pool)
