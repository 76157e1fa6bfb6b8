"""How long do requests take while another model is loaded and takes the place of the old one?

    python -m benchmarks.serving.model_change --model vgg19 --image-size 224

A real `vgg19 serve`, asked at a constant rate far below what it can do, while two versions are
promoted in turns. A request's time counts from the moment at which it was due, whether or not it
could be sent then, so that a service (or a machine) that stands still hides nothing. A request is
of `during` if any part of it lies between the order to promote and the moment when the old version
has gone, of `before` if it ended before the first of them, otherwise of `after`.

Promotions are written to the history by a process that waits for them: what the command costs
beside that, its start and its reading of all files, is mostly spent on another machine, and no part
of a change. The two models of `vgg19` have 140 million weights each, with the eight
golden samples that `vgg19 export` writes; `tiny` shows that the benchmark works, and says nothing
about a change.

Ends with 1 if a request failed, or was answered by a version that was neither current nor to be.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.report import save
from benchmarks.serving.pace import constant, load
from benchmarks.serving.two_versions import two_versions
from benchmarks.serving.workload import SMALL, USUAL, photographs
from benchmarks.usage import Tree, cpu_seconds_of_others
from testing.server import COMMAND, Server, serve

logging.getLogger("httpx").setLevel(logging.WARNING)  # a line a request, with BentoML's set-up

PHASES = ("before", "during", "after")
TARGET = 1.5  # p99 of `during` by that of `before`
_SHARE = 0.3  # of the time in which the service works, at the rate that is chosen for it
_LONE_REQUESTS = 20
_MAX_RATE = 50.0
_LOOK_S = 0.05
_FREEING_S = 0.5  # in which what the old version held is given back, once it is listed no more
_TIMEOUT_S = 60.0
_HEADERS = {"Content-Type": "image/jpeg"}
# Reads a version a line, and says when it is promoted.
_PROMOTER = """
import sys
from models.registry.promotions import History
from models.registry.store import MODEL_NAME, store_path
history = History(store_path() / MODEL_NAME)
print("ready", flush=True)
for line in sys.stdin:
    history.promote(line.strip(), "a benchmark")
    print(line.strip(), flush=True)
"""


@dataclass(frozen=True)
class Plan:
    """seconds: before the first change and after the last; pause_s: between two; rate: requests a
    second, 0: so many that the service works for a third of its time."""

    changes: int = 20
    seconds: float = 60.0
    pause_s: float = 3.0
    rate: float = 0.0


@dataclass(frozen=True, slots=True)
class Request:
    """Times by the monotonic clock. version: that answered; problem: what came in its place."""

    due: float
    ended: float
    version: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """From the order to promote `version` until what was current before has gone."""

    version: str
    began: float
    ended: float


def main() -> None:
    parser = argparse.ArgumentParser(description="Latency through changes of the model.")
    parser.add_argument("--model", choices=["vgg19", "tiny"], default="vgg19")
    parser.add_argument("--image-size", type=int, default=224, help="px, of vgg19")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="cpu")
    parser.add_argument("--changes", type=int, default=Plan.changes)
    parser.add_argument("--seconds", type=float, default=Plan.seconds, help="before and after")
    parser.add_argument("--pause", type=float, default=Plan.pause_s, help="seconds between changes")
    parser.add_argument("--rate", type=float, default=Plan.rate, help="a second; 0: as suits it")
    options = parser.parse_args()
    plan = Plan(options.changes, options.seconds, options.pause, options.rate)
    with two_versions(options.model, options.image_size) as (home, tags):
        report = run(home, tags, plan, options.device, SMALL if options.model == "tiny" else USUAL)
    command = " ".join(["python -m benchmarks.serving.model_change", *sys.argv[1:]])
    asked = {"model": options.model, "image_size": options.image_size, "device": options.device}
    save("model-change", {"command": command, **asked, **report})
    print(markdown(report))
    sys.exit(1 if report["errors"] or report["wrong_versions"] else 0)


def run(
    home: Path, tags: tuple[str, str], plan: Plan, device: str = "cpu", image: str = USUAL
) -> dict[str, Any]:
    """What came of a plan, of two registered versions, the first of which is in production."""
    settings = {
        "VGG19_DEVICE": device,
        "VGG19_WATCH_INTERVAL_S": "1",  # less of `during` is spent waiting for it to begin
        "VGG19_ACCESS_LOG": "false",
    }
    with serve(home, home / "log", COMMAND, **settings) as server, promoter(home) as promote:
        return asyncio.run(measure(server, promote, tags, plan, photographs()[image]))


async def measure(
    server: Server,
    promote: subprocess.Popen[str],
    tags: tuple[str, str],
    plan: Plan,
    image: bytes,
) -> dict[str, Any]:
    versions = [tag.rpartition(":")[2] for tag in tags]
    async with httpx.AsyncClient(base_url=server.url, timeout=_TIMEOUT_S) as client:
        alone_s = await lone_s(client, image)
        rate = plan.rate or min(_SHARE / alone_s, _MAX_RATE)
        tree = Tree(server.process.pid)
        others, ours, started = cpu_seconds_of_others(), tree.cpu_seconds(), time.monotonic()
        async with load(partial(_ask, client, image), constant(rate)) as requests:
            await asyncio.sleep(plan.seconds)
            changes = []
            for number in range(1, plan.changes + 1):
                changes.append(await _change(client, promote, versions[number % 2]))
                await asyncio.sleep(plan.pause_s)
            await asyncio.sleep(plan.seconds - plan.pause_s)
        seconds = time.monotonic() - started
        others_s = cpu_seconds_of_others() - others - (tree.cpu_seconds() - ours)
    return {
        "lone_ms": round(1e3 * alone_s, 1),
        "rate_per_second": round(rate, 2),
        "seconds": round(seconds, 1),
        "others_cores": round(max(0.0, others_s) / seconds, 2),
    } | summary(requests, changes, versions[0])


def summary(requests: Sequence[Request], changes: Sequence[Change], version: str) -> dict[str, Any]:
    """version: that was current before the first change."""
    times: dict[str, list[float]] = {phase: [] for phase in PHASES}
    problems, wrong = [], 0
    for request in requests:
        times[phase_of(request, changes)].append(request.ended - request.due)
        if request.problem:
            problems.append(request.problem)
        elif request.version not in possible(request, changes, version):
            wrong += 1
    rows = {phase: _row(times[phase]) for phase in PHASES}
    for row in rows.values():
        row["p99_by_before"] = round(row["p99_ms"] / max(rows["before"]["p99_ms"], 1e-3), 2)
    took = [change.ended - change.began for change in changes]
    return {
        "changes": len(changes),
        "change_s": round(float(np.median(took)), 2) if took else 0.0,
        "errors": len(problems),
        "first_errors": problems[:5],
        "wrong_versions": wrong,
        "answers": {name: sum(one.version == name for one in requests)
                    for name in sorted({one.version for one in requests} - {""})},
        "phases": rows,
        "during_ms": [round(1e3 * one, 1) for one in sorted(times["during"])[-20:]],
    }  # fmt: skip


def phase_of(request: Request, changes: Sequence[Change]) -> str:
    if any(_overlap(request, change) for change in changes):
        return "during"
    return "after" if changes and request.due >= changes[0].ended else "before"


def possible(request: Request, changes: Sequence[Change], version: str) -> Collection[str]:
    """The versions that were current, or to become so, at some time of a request.

    Args:
        version: the one before the first change.
    """
    found = {version}
    for change in changes:
        if _overlap(request, change):
            found.add(change.version)
        elif change.ended <= request.due:
            found = {change.version}
    return found


def _overlap(request: Request, change: Change) -> bool:
    return request.due < change.ended and request.ended > change.began


def _row(seconds: Sequence[float]) -> dict[str, float]:
    if not seconds:
        return {"requests": 0, "p50_ms": 0.0, "p99_ms": 0.0, "max_ms": 0.0}
    # Of few requests the one above, not a mean with the one below.
    p50, p99, largest = 1e3 * np.percentile(seconds, [50, 99, 100], method="higher")
    return {
        "requests": len(seconds),
        "p50_ms": round(float(p50), 1),
        "p99_ms": round(float(p99), 1),
        "max_ms": round(float(largest), 1),
    }


def markdown(report: dict[str, Any]) -> str:
    lines = [
        (
            f"{report['changes']} changes of {report['change_s']} s (median), "
            f"{report['rate_per_second']} requests/s, {report['errors']} errors, "
            f"{report['wrong_versions']} answers of a wrong version; "
            f"others used {report['others_cores']} cores"
        ),
        "",
        "| | requests | p50 ms | p99 ms | longest ms | p99 by that before |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for phase in PHASES:
        values = " | ".join(str(value) for value in report["phases"][phase].values())
        lines.append(f"| {phase} | {values} |")
    ratio = report["phases"]["during"]["p99_by_before"]
    lines += ["", f"aimed at: at most {TARGET} during changes; it is {ratio}"]
    return "\n".join(lines)


async def _ask(client: httpx.AsyncClient, image: bytes, due: float) -> Request:
    version, problem = "", ""
    try:
        reply = await client.post("/classify", content=image, headers=_HEADERS)
        if reply.is_success:
            version = str(reply.json()["model_version"])
        else:
            problem = f"{reply.status_code}: {reply.text[:200]}"
    except httpx.HTTPError as error:
        problem = f"{type(error).__name__}: {error}"
    return Request(due, time.monotonic(), version, problem)


async def _change(
    client: httpx.AsyncClient, promote: subprocess.Popen[str], version: str
) -> Change:
    """Promote a version, and wait until it is the only one."""
    began = time.monotonic()
    await asyncio.to_thread(tell, promote, version)
    while (await client.get("/model")).json()["loaded_versions"] != [version]:
        if time.monotonic() > began + _TIMEOUT_S:
            raise TimeoutError(f"{version} isn't the only one after {_TIMEOUT_S:g} s")
        await asyncio.sleep(_LOOK_S)
    await asyncio.sleep(_FREEING_S)
    return Change(version, began, time.monotonic())


async def lone_s(client: httpx.AsyncClient, image: bytes) -> float:
    """Of a request on its own, median."""
    times = []
    for _ in range(_LONE_REQUESTS):
        started = time.monotonic()
        (await client.post("/classify", content=image, headers=_HEADERS)).raise_for_status()
        times.append(time.monotonic() - started)
    return float(np.median(times))


@contextmanager
def promoter(home: Path) -> Iterator[subprocess.Popen[str]]:
    """A process for `tell`."""
    environment = os.environ | {"BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True"}
    command = [sys.executable, "-c", _PROMOTER]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield process
        finally:
            process.kill()


def tell(process: subprocess.Popen[str], version: str) -> None:
    """Have it promote `version`; returns when that is done."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{version}\n")
    process.stdin.flush()
    if process.stdout.readline().strip() != version:
        raise RuntimeError(f"{version} can't be promoted")


if __name__ == "__main__":
    main()
