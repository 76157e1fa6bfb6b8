"""Small images beside large ones: how much longer do they take?

    python -m benchmarks.serving.beside_large

A real `vgg19 serve` with the null model, so that decoding takes the time. Photographs of 500 x 400
at a constant rate, by turns with nothing beside them and with connections that each send one PNG of
25 megapixels after another. A small one's time counts from when it was due. Clients and service
share the machine. Ends with 1 if a request failed.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import logging
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from benchmarks.report import medians, save
from benchmarks.serving.pace import constant, load
from benchmarks.serving.workload import USUAL, photographs, prepare
from testing.server import COMMAND, serve

logging.getLogger("httpx").setLevel(logging.WARNING)  # a line a request, with BentoML's set-up

_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Plan:
    """rate: of small images, a second. connections: for large ones, by turns; none come first."""

    rounds: int = 4
    seconds: float = 8.0
    rate: float = 25.0
    connections: tuple[int, ...] = (1, 8)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=Plan.rounds)
    parser.add_argument("--seconds", type=float, default=Plan.seconds, help="of each turn")
    parser.add_argument("--rate", type=float, default=Plan.rate, help="small images a second")
    options = parser.parse_args()
    plan = Plan(options.rounds, options.seconds, options.rate)
    report = run(prepare("null").home, plan, large_png())
    command = " ".join(["python -m benchmarks.serving.beside_large", *sys.argv[1:]])
    save("beside-large", {"command": command, **report})
    print(markdown(report), *report["errors"][:5], sep="\n")
    sys.exit(1 if report["errors"] else 0)


def large_png(side: int = 5000) -> bytes:
    """A photograph in large blocks: so many pixels fit into the limit of an image's bytes."""
    photograph = Image.open(io.BytesIO(photographs()[USUAL]))
    buffer = io.BytesIO()
    photograph.resize((side, side), Image.Resampling.NEAREST).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def run(home: Path, plan: Plan, large: bytes) -> dict[str, Any]:
    with serve(home, home.parent / "log", COMMAND, VGG19_ACCESS_LOG="false") as server:
        return asyncio.run(measure(server.url, plan, large))


async def measure(url: str, plan: Plan, large: bytes) -> dict[str, Any]:
    small = photographs()[USUAL]
    errors: list[str] = []
    rows: dict[str, list[dict[str, float]]] = {}
    async with httpx.AsyncClient(base_url=url, timeout=_TIMEOUT_S) as client:
        ask = partial(_seconds, client, errors)
        for _ in range(plan.rounds):
            for count in (0, *plan.connections):
                async with (
                    _one_after_another(partial(ask, large), count) as of_large,
                    load(partial(ask, small), constant(plan.rate)) as of_small,
                ):
                    await asyncio.sleep(plan.seconds)
                name = f"beside {count} at once" if count else "alone"
                alone = rows["alone"][-1] if count else None
                rows.setdefault(name, []).append(row(of_small, of_large, alone))
    return {"large_bytes": len(large), "errors": errors, "turns": rows}


def row(
    small: Sequence[float], large: Sequence[float], alone: Mapping[str, float] | None
) -> dict[str, float]:
    """One turn. small, large: seconds of each request. alone: of this round; None: this is it."""
    p50, p99, largest = (1e3 * np.percentile(small, [50, 99, 100], method="higher")).tolist()
    return {
        "requests": len(small),
        "p50_ms": p50,
        "p99_ms": p99,
        "max_ms": largest,
        "p50_by_alone": p50 / alone["p50_ms"] if alone else 1.0,
        "p99_by_alone": p99 / alone["p99_ms"] if alone else 1.0,
        "large": len(large),
        "large_p50_ms": 1e3 * float(np.median(large)) if large else 0.0,
    }


def markdown(report: Mapping[str, Any]) -> str:
    heads = (
        "25 megapixels", "small", "p50 ms", "p99 ms", "longest ms", "p50 by alone", "p99 by alone",
        "large", "p50 ms",
    )  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "|---|" + "--:|" * (len(heads) - 1)]
    for name, found in medians(report["turns"]).items():
        lines.append(f"| {name} | " + " | ".join(f"{value:.4g}" for value in found.values()) + " |")
    return "\n".join(lines)


@asynccontextmanager
async def _one_after_another(ask: Any, connections: int) -> AsyncIterator[list[float]]:
    """The seconds of requests that each connection sends as soon as the one before is answered."""
    took: list[float] = []
    stopped = asyncio.Event()

    async def send() -> None:
        while not stopped.is_set():
            took.append(await ask(time.monotonic()))

    async with asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(send())
        yield took
        stopped.set()


async def _seconds(client: httpx.AsyncClient, errors: list[str], image: bytes, due: float) -> float:
    """From when a request was due to its answer."""
    try:
        headers = {"Content-Type": "application/octet-stream"}
        reply = await client.post("/classify", content=image, headers=headers)
        if not reply.is_success:
            errors.append(f"{reply.status_code}: {reply.text[:200]}")
    except httpx.HTTPError as error:
        errors.append(f"{type(error).__name__}: {error}")
    return time.monotonic() - due


if __name__ == "__main__":
    main()
