"""Both transports over a stub model in a process of its own, whose memory and loop are watched."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from serving.core.batcher import Batcher
from serving.core.dataplane import DataPlane, Limits
from serving.core.decode_budget import DecodeBudget
from serving.core.pool import DesiredVersion, ModelPool
from serving.core.served_model import ServedModel
from serving.grpc.server import GrpcOptions, GrpcServer
from serving.grpc.servicer import InferenceServicer
from testing.ports import free_port
from testing.waiting import HANG_S
from tests.serving.conftest import StubModel, context_of, served
from tests.serving.http.test_app import app_of

_TICK_S = 0.005
_MANY = 1_000_000


@dataclass(frozen=True)
class Watched:
    """A server that runs."""

    pid: int
    http_port: int
    grpc_port: int
    _lag: Synchronized[float]

    def forget(self) -> None:
        """What it took until now."""
        self._lag.value = 0.0
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")  # the peak is what it is now

    @property
    def lag_s(self) -> float:
        """The longest time since `forget` in which the event loop did one thing only."""
        return self._lag.value

    def resident_bytes(self) -> int:
        return self._status("VmRSS")

    def peak_bytes(self) -> int:
        return self._status("VmHWM")

    def _status(self, name: str) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024
        raise AssertionError("the server has ended")


@contextmanager
def watched_server(max_bytes: int, max_images: int = 1_500) -> Iterator[Watched]:
    """max_images: as pixels of 32 x 32, some megabytes."""
    spawn = multiprocessing.get_context("spawn")
    lag: Synchronized[float] = spawn.Value("d", 0.0)
    ready = spawn.Event()
    ports = free_port(), free_port()
    arguments = (max_bytes, max_images, *ports, lag, ready)
    process = spawn.Process(target=_serve, args=arguments, daemon=True)
    with pytest.MonkeyPatch.context() as patch:
        # What is freed goes back at once: kept, it would be there for the next one to grow into.
        patch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")
        patch.setenv("MALLOC_TRIM_THRESHOLD_", "65536")
        process.start()
    try:
        assert ready.wait(HANG_S), "the server didn't start"
        assert process.pid is not None
        yield Watched(process.pid, *ports, lag)
    finally:
        process.kill()
        process.join()


def _serve(*arguments: Any) -> None:
    asyncio.run(_run(*arguments))


async def _run(
    max_bytes: int,
    max_images: int,
    http_port: int,
    grpc_port: int,
    lag: Synchronized[float],
    ready: Event,
) -> None:
    limits = Limits(
        max_image_bytes=max_bytes,
        max_image_pixels=1_000_000,
        max_request_images=max_images,
        max_request_bytes=max_bytes,
        request_timeout_s=120.0,
        image_formats=("JPEG", "PNG", "WEBP"),
    )
    pool = ModelPool(_load, grace_s=1)
    await pool.follow(DesiredVersion("v1"))
    dataplane = DataPlane(pool, DecodeBudget(1), limits)
    options = GrpcOptions("127.0.0.1", grpc_port, max_message_bytes=max_bytes)
    grpc = await GrpcServer.start(InferenceServicer(context_of(dataplane), "1"), options)
    app = app_of(dataplane)
    server = uvicorn.Server(
        uvicorn.Config(app, port=http_port, log_level="critical", lifespan="off")
    )
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.02)
    ready.set()
    await asyncio.gather(serving, _watch(lag))
    await grpc.stop(0)  # never; it would end where nobody holds it


def _load(version: str) -> ServedModel:
    model = StubModel()
    one = served(version, model, explains=False)
    one.batcher = Batcher(model.judge, max_batch_size=64, max_queue=_MANY)
    return one


async def _watch(lag: Synchronized[float]) -> None:
    """The shorter of two clocks: one stands still while other processes have the processor."""
    while True:
        wall, used = time.perf_counter(), time.process_time()
        await asyncio.sleep(_TICK_S)
        late = min(time.perf_counter() - wall - _TICK_S, time.process_time() - used)
        if late > lag.value:
            lag.value = late
