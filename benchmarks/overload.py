"""Five times more requests than the service can answer: how long take answers, how long refusals?

    python -m benchmarks.overload

A real service, whose model takes a fixed time a batch on one core; constant rates, half over HTTP
and half over gRPC. An accepted image waits for at most what the full queue is worth, so its time is
told as a multiple of that.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx

from benchmarks.load import infer_request
from benchmarks.machine import describe_machine
from protocol.open_inference_pb2_grpc import GRPCInferenceServiceStub
from tests.helpers import coloured_pixels, encode
from tests.integration.conftest import make_home, serve

_BUSY = 100  # matrix products a batch
_BATCH, _QUEUE = 8, 32
_OVERLOAD = 5
_SECONDS = 20.0
_IMAGE = encode(coloured_pixels(1))


@dataclass
class Times:
    """Seconds of each request, by what became of it."""

    accepted: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def main() -> None:
    settings = {
        "VGG19_MAX_BATCH_SIZE": str(_BATCH),
        "VGG19_MAX_QUEUE_IMAGES": str(_QUEUE),
        "VGG19_MAX_REQUEST_IMAGES": "8",
        "VGG19_INTRA_OP_THREADS": "1",  # the other core is the clients'
        "VGG19_ACCESS_LOG": "false",
    }
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        home = make_home(directory, busy=_BUSY)
        with serve(home, directory / "log", **settings) as server:
            result = asyncio.run(measure(server.url, f"127.0.0.1:{server.grpc_port}"))
    path = Path("build/benchmarks/overload.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"machine": describe_machine(), **result}
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    for name, value in result.items():
        print(f"{name:32} {value}")


async def measure(url: str, address: str) -> dict[str, Any]:
    limits = httpx.Limits(max_connections=400, max_keepalive_connections=400)
    async with (
        httpx.AsyncClient(timeout=60, limits=limits) as client,
        grpc.aio.insecure_channel(address) as channel,
    ):
        ways = (HttpWay(client, url), GrpcWay(GRPCInferenceServiceStub(channel)))
        capacity = await _capacity(ways[0])
        times = await _open_loop(ways, _OVERLOAD * capacity)
        after = await _capacity(ways[0])
    queue_s = (_QUEUE + _BATCH) / capacity
    return {
        "capacity_images_per_second": round(capacity, 1),
        "asked_per_second": round(_OVERLOAD * capacity, 1),
        "accepted": len(times.accepted),
        "refused": len(times.refused),
        "failed": len(times.failed),
        "queue_worth_s": round(queue_s, 3),
        "accepted_p99_in_queues": round(_percentile(times.accepted, 99) / queue_s, 2),
        "refused_p50_ms": round(1e3 * statistics.median(times.refused), 1),
        "refused_p99_ms": round(1e3 * _percentile(times.refused, 99), 1),
        "capacity_afterwards": round(after, 1),
    }


class HttpWay:
    def __init__(self, client: httpx.AsyncClient, url: str) -> None:
        self._client, self._url = client, f"{url}/classify"

    async def ask(self) -> bool:
        """Whether it was answered; False: refused."""
        headers = {"Content-Type": "image/png"}
        reply = await self._client.post(self._url, content=_IMAGE, headers=headers)
        if reply.status_code not in (200, 503):
            raise RuntimeError(reply.text)
        return reply.status_code == httpx.codes.OK


class GrpcWay:
    def __init__(self, stub: GRPCInferenceServiceStub) -> None:
        self._stub = stub
        self._request = infer_request(_IMAGE)

    async def ask(self) -> bool:
        try:
            await self._stub.ModelInfer(self._request)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise
            return False
        return True


async def _capacity(way: HttpWay) -> float:
    """Images a second that full batches give, with as many clients as fill them."""
    done = 0
    until = time.monotonic() + 6

    async def client() -> None:
        nonlocal done
        while time.monotonic() < until:
            answered = await way.ask()  # first: `done` is read before what is awaited
            done += answered

    started = time.monotonic()
    await asyncio.gather(*(client() for _ in range(2 * _BATCH)))
    return done / (time.monotonic() - started)


async def _open_loop(ways: tuple[HttpWay, GrpcWay], rate: float) -> Times:
    times = Times()

    async def ask(way: HttpWay | GrpcWay) -> None:
        started = time.monotonic()
        try:
            accepted = await way.ask()
        except Exception as error:  # of either transport: counted
            times.failed.append(str(error))
            return
        seconds = time.monotonic() - started
        (times.accepted if accepted else times.refused).append(seconds)

    started, tasks = time.monotonic(), []
    for number in range(int(rate * _SECONDS)):
        await asyncio.sleep(max(0.0, started + number / rate - time.monotonic()))
        tasks.append(asyncio.create_task(ask(ways[number % 2])))
    await asyncio.gather(*tasks)
    return times


def _percentile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100)[percent - 1]


if __name__ == "__main__":
    main()
