"""Damaged images by the thousand, sent to a running service over both transports.

    python -m reliability.images --count 10000 --seed 0

starts the service with a model of a few nodes, sends it every sample of `reliability.corpus` and
then mutated ones, half over HTTP (raw, or in a form) and half over gRPC, from several connections,
with a good image after every few, and prints what came back as JSON. Exit code 1 where a promise is
broken: every request is answered, with 200 or a refusal of the client's; memory and file
descriptors stay level; a good image is answered throughout, as fast at the end as at the start.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
import psutil

from benchmarks.serving.load import infer_request
from protocol.open_inference_pb2_grpc import GRPCInferenceServiceStub
from reliability.corpus import Sample, mutated_images, samples
from testing.images import coloured_pixels, encode
from testing.server import Server, make_home, serve

GOOD = encode(coloured_pixels(3))
_CONNECTIONS = 8
_GOOD_EVERY = 10
# After this share of the requests, what is only made once is made.
_WARM_UP = 0.2
_MAX_GROWTH_BYTES, _MAX_GROWTH_FDS = 50_000_000, 10
_MAX_SLOWDOWN = 2.0
_HTTP_REFUSALS = frozenset({400, 413, 415, 422})
_GRPC_REFUSALS = frozenset({"INVALID_ARGUMENT"})


@dataclass
class Tally:
    """What came of the requests. `broken`: answers that no client's mistake explains."""

    sent: int = 0
    answered: int = 0
    refused: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    good_ms: list[float] = field(default_factory=list)

    def add(self, sample: Sample, status: str, *, is_refusal: bool) -> None:
        """Note the answer to a hostile image."""
        self.statuses[status] += 1
        is_answer = status in ("HTTP 200", "gRPC OK")
        self.answered += is_answer
        self.refused += is_refusal
        as_expected = {"image": is_answer, "refused": is_refusal}.get(sample.expected, True)
        if not (is_answer or is_refusal) or not as_expected:
            self.broken.append(f"{status} for {sample.name}")


class Client:
    """One connection of each transport."""

    def __init__(self, server: Server, tally: Tally) -> None:
        self._http = httpx.AsyncClient(base_url=server.url, timeout=60)
        self._channel = grpc.aio.insecure_channel(
            f"127.0.0.1:{server.grpc_port}", options=[("grpc.use_local_subchannel_pool", 1)]
        )
        self._infer = GRPCInferenceServiceStub(self._channel).ModelInfer
        self._tally = tally

    async def close(self) -> None:
        await self._http.aclose()
        await self._channel.close(None)

    async def send(self, number: int, sample: Sample) -> None:
        """Even ones over gRPC, the others over HTTP: raw, or in a form."""
        self._tally.sent += 1
        try:
            if number % 2 == 0:
                code = await self._by_grpc(sample.data)
                self._tally.add(sample, f"gRPC {code}", is_refusal=code in _GRPC_REFUSALS)
            else:
                status = await self._by_http(sample, in_form=number % 4 == 1)
                self._tally.add(sample, f"HTTP {status}", is_refusal=status in _HTTP_REFUSALS)
        except httpx.HTTPError as error:
            self._tally.add(sample, type(error).__name__, is_refusal=False)

    async def send_good(self, number: int) -> None:
        """Alternately over both transports."""
        started = time.perf_counter()
        if number % 2 == 0:
            is_answered = await self._by_grpc(GOOD) == "OK"
        else:
            is_answered = await self._by_http(Sample("a.png", GOOD, "image"), in_form=False) == 200
        self._tally.good_ms.append((time.perf_counter() - started) * 1e3)
        if not is_answered:
            self._tally.broken.append(f"a good image, the {number}th, has no answer")

    async def _by_grpc(self, image: bytes) -> str:
        try:
            await self._infer(infer_request(image), timeout=60)
        except grpc.aio.AioRpcError as error:
            return str(error.code().name)
        return "OK"

    async def _by_http(self, sample: Sample, *, in_form: bool) -> int:
        if in_form:
            files = {"image": (sample.name, sample.data, "image/gif")}
            return (await self._http.post("/classify", files=files)).status_code
        headers = {"Content-Type": "image/jpeg"}
        return (
            await self._http.post("/classify", content=sample.data, headers=headers)
        ).status_code


def worker_of(server: Server) -> psutil.Process:
    """The process that holds the model."""
    return max(server.children(), key=lambda process: process.memory_info().rss)


async def attack(server: Server, count: int, seed: int) -> dict[str, Any]:
    """Send `count` images, and every `_GOOD_EVERY`th time a good one besides.

    Returns:
        The report: counts, statuses, memory and descriptors, latencies, and what is `broken`.
    """
    tally = Tally()
    numbered = enumerate(_images(count, seed))
    worker = worker_of(server)
    levels: list[tuple[int, int]] = []

    async def work(client: Client) -> None:
        for number, sample in numbered:
            await client.send(number, sample)
            if number % _GOOD_EVERY == 0:
                await client.send_good(number // _GOOD_EVERY)
            if number == int(count * _WARM_UP):
                levels.append((worker.memory_info().rss, worker.num_fds()))

    clients = [Client(server, tally) for _ in range(_CONNECTIONS)]
    started = time.perf_counter()
    await asyncio.gather(*(work(client) for client in clients))
    seconds = time.perf_counter() - started
    levels.append((worker.memory_info().rss, worker.num_fds()))
    for client in clients:
        await client.close()
    return _report(tally, levels, seconds)


def _images(count: int, seed: int) -> Iterator[Sample]:
    own = list(samples(seed))[:count]
    yield from own
    yield from mutated_images(count - len(own), seed)


def _report(tally: Tally, levels: list[tuple[int, int]], seconds: float) -> dict[str, Any]:
    warm, end = levels
    third = max(1, len(tally.good_ms) // 3)
    thirds = [tally.good_ms[:third], tally.good_ms[third:-third], tally.good_ms[-third:]]
    medians = [statistics.median(part or [0.0]) for part in thirds]
    broken = tally.broken[:20]
    if tally.sent != tally.answered + tally.refused:
        broken.append(f"{tally.sent - tally.answered - tally.refused} requests have no such answer")
    if end[0] - warm[0] > _MAX_GROWTH_BYTES:
        broken.append(f"memory grew by {(end[0] - warm[0]) / 1e6:.0f} MB")
    if end[1] - warm[1] > _MAX_GROWTH_FDS:
        broken.append(f"file descriptors grew from {warm[1]} to {end[1]}")
    return {
        "sent": tally.sent,
        "answered": tally.answered,
        "refused": tally.refused,
        "statuses": dict(sorted(tally.statuses.items())),
        "seconds": round(seconds, 1),
        "good_images": len(tally.good_ms),
        "good_median_ms": [round(median, 1) for median in medians],
        "rss_mb": [round(level[0] / 1e6, 1) for level in levels],
        "file_descriptors": [level[1] for level in levels],
        "broken": broken,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        home = make_home(Path(directory))
        with serve(home, home / "server.log") as server:
            report = asyncio.run(attack(server, options.count, options.seed))
            start_ms, _, end_ms = report["good_median_ms"]
            if end_ms > _MAX_SLOWDOWN * start_ms:
                report["broken"].append(
                    f"good images took {start_ms} ms at the start, then {end_ms}"
                )
            if server.process.poll() is not None:
                report["broken"].append("the service has ended")
    print(json.dumps(report, indent=2))
    sys.exit(1 if report["broken"] else 0)


if __name__ == "__main__":
    main()
