"""Five times more requests than the service can answer: how long take answers, how long refusals?

    python -m benchmarks.serving.overload --seconds 300

A real service, whose model takes a fixed time a batch on one core; constant rates, half over HTTP
and half over gRPC. An accepted image waits for at most what the full queue is worth, so its time is
told as a multiple of that. What the service holds and what a lone request takes is told before and
after. Ends with 1 if a request was neither answered nor refused.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.report import save
from reliability.clients import ANSWERED, REFUSED, Client, clients_of, lost
from reliability.resources import Sample, sample
from testing.images import coloured_pixels, encode
from testing.server import Server, make_home, serve

_BUSY = 100  # matrix products a batch
_BATCH, _QUEUE = 8, 32
_OVERLOAD = 5
_CAPACITY_S = 6.0
_LONE_REQUESTS = 20
_SETTLE_S = 5.0
_IMAGE = encode(coloured_pixels(1))


@dataclass
class Times:
    """What became of the requests, and the seconds of each that was answered or refused."""

    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, list[float]] = field(default_factory=lambda: {ANSWERED: [], REFUSED: []})

    def add(self, outcome: str, seconds: float) -> None:
        self.outcomes[outcome] += 1
        if outcome in self.seconds:
            self.seconds[outcome].append(seconds)


@dataclass(frozen=True)
class State:
    """Of the service at rest. capacity: images a second; lone_ms: of a request on its own."""

    capacity: float
    lone_ms: float
    holds: Sample


def main() -> None:
    parser = argparse.ArgumentParser(description="Five times too many requests.")
    parser.add_argument("--seconds", type=float, default=20)
    seconds = parser.parse_args().seconds
    settings = {
        "VGG19_MAX_BATCH_SIZE": str(_BATCH),
        "VGG19_MAX_QUEUE_IMAGES": str(_QUEUE),
        "VGG19_MAX_REQUEST_IMAGES": "8",
        "VGG19_INTRA_OP_THREADS": "1",  # the other core is the clients'
        "VGG19_ACCESS_LOG": "false",
    }
    with tempfile.TemporaryDirectory() as name:
        home = make_home(Path(name), busy=_BUSY)
        with serve(home, home / "log", **settings) as server:
            result = asyncio.run(measure(server, seconds))
    save("overload", {"seconds": seconds, **result})
    for name, value in result.items():
        print(f"{name:32} {value}")
    sys.exit(1 if result["lost"] else 0)


async def measure(server: Server, seconds: float) -> dict[str, Any]:
    async with clients_of(server) as clients:
        before = await _state(server, clients)
        times = await _open_loop(clients, _OVERLOAD * before.capacity, seconds)
        await asyncio.sleep(_SETTLE_S)
        after = await _state(server, clients)
    queue_s = (_QUEUE + _BATCH) / before.capacity
    accepted, refused = times.seconds[ANSWERED], times.seconds[REFUSED]
    return {
        "capacity_images_per_second": round(before.capacity, 1),
        "asked_per_second": round(_OVERLOAD * before.capacity, 1),
        "sent": times.outcomes.total(),
        "accepted": len(accepted),
        "refused": len(refused),
        "lost": lost(times.outcomes),
        "queue_worth_s": round(queue_s, 3),
        "accepted_p99_in_queues": round(_percentile(accepted, 99) / queue_s, 2),
        "refused_p50_ms": round(1e3 * statistics.median(refused), 1),
        "refused_p99_ms": round(1e3 * _percentile(refused, 99), 1),
        "capacity_afterwards": round(after.capacity, 1),
        "lone_request_ms": [round(before.lone_ms, 1), round(after.lone_ms, 1)],
        "memory_mb": [round(before.holds.memory_mb, 1), round(after.holds.memory_mb, 1)],
        "descriptors": [before.holds.descriptors, after.holds.descriptors],
        "threads": [before.holds.threads, after.holds.threads],
    }


async def _state(server: Server, clients: tuple[Client, Client]) -> State:
    capacity = await _capacity(clients)
    times = []
    for number in range(_LONE_REQUESTS):
        started = time.monotonic()
        await clients[number % 2].ask(_IMAGE)
        times.append(time.monotonic() - started)
    return State(capacity, 1e3 * statistics.median(times), sample(server.process.pid))


async def _capacity(clients: tuple[Client, Client]) -> float:
    """Images a second that full batches give, with as many clients as fill them."""
    done = 0
    until = time.monotonic() + _CAPACITY_S

    async def ask(client: Client) -> None:
        nonlocal done
        while time.monotonic() < until:
            outcome = await client.ask(_IMAGE)  # first: `done` is read before what is awaited
            done += outcome == ANSWERED

    started = time.monotonic()
    await asyncio.gather(*(ask(clients[number % 2]) for number in range(2 * _BATCH)))
    return done / (time.monotonic() - started)


async def _open_loop(clients: tuple[Client, Client], rate: float, seconds: float) -> Times:
    times = Times()

    async def ask(client: Client) -> None:
        started = time.monotonic()
        times.add(await client.ask(_IMAGE), time.monotonic() - started)

    started = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, started + number / rate - time.monotonic()))
            group.create_task(ask(clients[number % 2]))
    return times


def _percentile(values: Sequence[float], percent: int) -> float:
    return statistics.quantiles(values, n=100)[percent - 1]


if __name__ == "__main__":
    main()
