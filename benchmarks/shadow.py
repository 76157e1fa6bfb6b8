"""What does a version in the shadow cost the requests of the one that is served?

    python -m benchmarks.shadow --image-size 64

A real `vgg19 serve` of VGG-19 with random weights, asked at a constant rate that keeps it busy for
more than half of the time. So a shadow, which is given every image, can't keep up: its queue is
full, it computes in every gap between requests, and the rest is dropped. Blocks with a shadow and
without take turns. A request's time counts from when it was due.

Ends with 1 if a request failed, or if the shadow answered nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.model_change import load, lone_s, two_versions
from benchmarks.report import save
from benchmarks.usage import Tree, cpu_seconds_of_others
from benchmarks.workload import USUAL, photographs
from models.registry.rollouts import Rollouts, Shadow
from models.registry.tallies import ShadowTally, read_tallies, remove_tallies, total
from testing.server import COMMAND, Server, serve

TARGET = 1.05  # p99 with a shadow by that without
_SHARE = 0.55  # of the time in which the service works
_LOADED_S = 60.0


def main() -> None:
    parser = argparse.ArgumentParser(description="Latency beside a shadow.")
    parser.add_argument("--image-size", type=int, default=64, help="px, of VGG-19")
    parser.add_argument("--pairs", type=int, default=5, help="blocks without and with a shadow")
    parser.add_argument("--seconds", type=float, default=7.0, help="of each block")
    options = parser.parse_args()
    settings = {"VGG19_DEVICE": "cpu", "VGG19_WATCH_INTERVAL_S": "1", "VGG19_ACCESS_LOG": "false"}
    with (
        two_versions("vgg19", options.image_size) as (home, tags),
        serve(home, home / "log", COMMAND, **settings) as server,
    ):
        report = asyncio.run(measure(server, home, tags, options.pairs, options.seconds))
    command = " ".join(["python -m benchmarks.shadow", *sys.argv[1:]])
    save("shadow", {"command": command, "image_size": options.image_size, **report})
    print(markdown(report))
    sys.exit(1 if report["errors"] or not report["compared"] else 0)


async def measure(
    server: Server, home: Path, tags: tuple[str, str], pairs: int, seconds: float
) -> dict[str, Any]:
    against, version = (tag.rpartition(":")[2] for tag in tags)
    directory = home / "models" / "vgg19"
    image = photographs()[USUAL]
    times: dict[str, list[float]] = {"without": [], "with": []}
    ratios, errors, compared, dropped = [], 0, 0, 0
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        alone_s = await lone_s(client, image)
        rate = _SHARE / alone_s
        tree = Tree(server.process.pid)
        others, ours, started = cpu_seconds_of_others(), tree.cpu_seconds(), time.monotonic()
        for _ in range(pairs):
            p99 = []
            for block in times:
                shadow = Shadow(version=version, against=against)
                if block == "with":
                    await _begin(directory, shadow)
                async with load(client, image, rate) as requests:
                    await asyncio.sleep(seconds)
                if block == "with":
                    seen = await _end(directory, shadow)
                    compared, dropped = compared + seen[0], dropped + seen[1]
                errors += sum(bool(one.problem) for one in requests)
                took = [one.ended - one.due for one in requests]
                times[block] += took
                p99.append(float(np.percentile(took, 99, method="higher")))
            ratios.append(round(p99[1] / p99[0], 3))
        spent = time.monotonic() - started
        others_s = cpu_seconds_of_others() - others - (tree.cpu_seconds() - ours)
    return {
        "lone_ms": round(1e3 * alone_s, 1),
        "rate_per_second": round(rate, 1),
        "others_cores": round(max(0.0, others_s) / spent, 2),
        "errors": errors,
        "compared": compared,
        "dropped": dropped,
        "requests": {block: len(took) for block, took in times.items()},
        "p50_ms": {block: _ms(took, 50) for block, took in times.items()},
        "p99_ms": {block: _ms(took, 99) for block, took in times.items()},
        "p99_ratio_of_each_pair": ratios,
    }


async def _begin(directory: Path, shadow: Shadow) -> None:
    """Returns when it answers."""
    remove_tallies(directory, shadow.id)
    Rollouts(directory).begin(shadow, "a benchmark")
    deadline = time.monotonic() + _LOADED_S
    while not any(t.state == "running" for t in read_tallies(directory, shadow.id, ShadowTally)):
        if time.monotonic() > deadline:
            raise TimeoutError(f"the shadow doesn't run after {_LOADED_S:g} s")
        await asyncio.sleep(0.2)


async def _end(directory: Path, shadow: Shadow) -> tuple[int, int]:
    """Returns when it has gone: images that it was compared on, and that were dropped."""
    Rollouts(directory).end(shadow, "stopped", "a benchmark")
    while True:
        tallies = read_tallies(directory, shadow.id, ShadowTally)
        if all(tally.state != "running" for tally in tallies):
            seen = total(tallies)
            return seen.images, seen.dropped
        await asyncio.sleep(0.2)


def _ms(seconds: list[float], percent: float) -> float:
    return round(1e3 * float(np.percentile(seconds, percent, method="higher")), 1)


def markdown(report: dict[str, Any]) -> str:
    p50, p99 = report["p50_ms"], report["p99_ms"]
    return "\n".join(
        [
            (
                f"{report['rate_per_second']} requests/s, one alone takes {report['lone_ms']} ms; "
                f"{report['errors']} errors; the shadow compared {report['compared']} images and "
                f"dropped {report['dropped']}; others used {report['others_cores']} cores"
            ),
            "",
            "| | requests | p50 ms | p99 ms |",
            "|---|--:|--:|--:|",
            *(
                f"| {block} | {report['requests'][block]} | {p50[block]} | {p99[block]} |"
                for block in p99
            ),
            "",
            (
                f"p99 with a shadow by that without: {p99['with'] / p99['without']:.3f}, aimed at "
                f"{TARGET}; of each pair: {report['p99_ratio_of_each_pair']}"
            ),
        ]
    )


if __name__ == "__main__":
    main()
