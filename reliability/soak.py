"""A service under moderate load for a long time: does anything grow, is anything lost?

    python -m reliability.soak --minutes 60        (make soak MINUTES=60)

Both transports; of 20 requests 16 are photographs, 3 damaged, and 1 is by a client that goes away
at once. Every minute another version is promoted. Memory, descriptors and threads of all processes
are sampled every ten seconds. Ends with 1 if a request was lost or something grew.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from benchmarks.machine import describe_machine
from benchmarks.serving.workload import LARGE, SMALL, USUAL, photographs
from reliability.clients import Client, ask_and_vanish, clients_of, lost
from reliability.resources import Sample, growth, sample, too_much
from testing.commands import vgg19
from testing.server import Server, register_version, serve

_RATE = 15.0  # requests a second: about a twelfth of what two cores can do
_SAMPLE_S, _PROMOTE_S = 10.0, 60.0
_FILL_CLIENTS, _FILL_REQUESTS = 16, 200
_OUTPUT = Path("build/reliability/soak.json")


def main() -> None:
    parser = argparse.ArgumentParser(description="A soak test.")
    parser.add_argument("--minutes", type=float, default=60)
    minutes = parser.parse_args().minutes
    with tempfile.TemporaryDirectory() as name:
        home, versions = _two_versions(Path(name))
        with serve(home, home / "log", VGG19_ACCESS_LOG="false") as server:
            outcomes, samples = asyncio.run(soak(server, home, versions, 60 * minutes))
    found = growth(samples)
    report = {
        "machine": describe_machine(),
        "minutes": minutes,
        "sent": outcomes.total(),
        "outcomes": dict(outcomes),
        "promotions": int(60 * minutes / _PROMOTE_S),
        "samples": len(samples),
        "growth": found,
        "memory_mb": [round(one.memory_mb, 1) for one in samples],
    }
    _OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    _OUTPUT.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=2))
    broken = lost(outcomes) | too_much(found)
    sys.exit(f"not as promised: {broken}" if broken else 0)


async def soak(
    server: Server, home: Path, versions: list[str], seconds: float
) -> tuple[Counter[str], list[Sample]]:
    """What became of the requests, and what the service held meanwhile."""
    samples: list[Sample] = []
    async with clients_of(server) as clients:
        await _fill(clients)
        asking = asyncio.create_task(_ask_at_a_rate(clients, seconds))
        helpers = [
            asyncio.create_task(_take_samples(server, samples)),
            asyncio.create_task(_promote_in_turns(home, versions)),
        ]
        outcomes = await asking
        for helper in helpers:
            helper.cancel()
        for ended in await asyncio.gather(*helpers, return_exceptions=True):
            if not isinstance(ended, asyncio.CancelledError):
                raise RuntimeError("a helper of the soak test ended before it") from ended
    return outcomes, samples


async def _fill(clients: tuple[Client, Client]) -> None:
    """Many requests at once, so that caches and pools hold before the first sample what a moderate
    load would take an hour to bring there."""
    images = photographs()

    async def ask(client: Client) -> None:
        for number in range(_FILL_REQUESTS):
            await _one_request(client, number, images)

    await asyncio.gather(*(ask(clients[number % 2]) for number in range(_FILL_CLIENTS)))


async def _ask_at_a_rate(clients: tuple[Client, Client], seconds: float) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    pending: set[asyncio.Task[str]] = set()

    def ended(task: asyncio.Task[str]) -> None:
        pending.discard(task)
        outcomes[task.result()] += 1

    images = photographs()
    started, number = time.monotonic(), 0
    while (now := time.monotonic() - started) < seconds:
        if now < number / _RATE:
            await asyncio.sleep(number / _RATE - now)
        task = asyncio.create_task(_one_request(clients[number % 2], number // 2, images))
        pending.add(task)
        task.add_done_callback(ended)
        number += 1
    await asyncio.gather(*pending)
    await asyncio.sleep(0)  # the last one's callback
    if outcomes.total() != number:
        raise RuntimeError(f"{number} requests were sent, {outcomes.total()} are accounted for")
    return outcomes


async def _one_request(client: Client, number: int, images: dict[str, bytes]) -> str:
    usual = images[USUAL]
    match number % 20:
        case 0:
            return await ask_and_vanish(client, usual, 0.001)
        case 1 | 2 | 3 as kind:  # cut off, overwritten, no image at all
            return await client.ask([usual[:9000], usual[:600] + bytes(9000), b"text"][kind - 1])
        case 4:
            return await client.ask(images[LARGE if number % 100 == 4 else SMALL])
        case _:
            return await client.ask(usual)


async def _take_samples(server: Server, samples: list[Sample]) -> None:
    while True:
        await asyncio.sleep(_SAMPLE_S)
        samples.append(sample(server.process.pid))


async def _promote_in_turns(home: Path, versions: list[str]) -> None:
    number = 1
    while True:
        await asyncio.sleep(_PROMOTE_S)
        await asyncio.to_thread(vgg19, home, "promote", versions[number % len(versions)])
        number += 1


def _two_versions(place: Path) -> tuple[Path, list[str]]:
    home, tags = place / "home", [register_version(place, day) for day in (1, 2)]
    vgg19(home, "promote", tags[0])
    return home, tags


if __name__ == "__main__":
    main()
