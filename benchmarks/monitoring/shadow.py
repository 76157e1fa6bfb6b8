"""What does a version in the shadow cost the requests of the one that is served?

    python -m benchmarks.monitoring.shadow
    python -m benchmarks.monitoring.shadow --more    # as many pairs again, counted together
    python -m benchmarks.monitoring.shadow --seen    # at which load it sees how many images

A real `vgg19 serve`, asked at a constant rate that keeps it busy for more than half of the time. So
a shadow, which is given every image, can't keep up: its queue is full, it always has work, and the
rest is dropped. Turns without a shadow and beside one alternate (`benchmarks.monitoring.turns`). A
request's time counts from when it was due. The client stands for one on another machine
(`benchmarks.monitoring.elsewhere`).

`small` is a matrix product of a millisecond, at which a minute has thousands of requests, so that a
p99 means something, and what a shadow costs (a signal, cold caches) is a larger part of a request
than of VGG-19's.

Ends with 1 if a request failed, or if the shadow answered nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import re
import sys
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from benchmarks.monitoring.elsewhere import Client, undisturbed
from benchmarks.monitoring.stalls import overlaps, watch_stalls
from benchmarks.monitoring.turns import MAX_OTHERS_CORES, Pair, Turn, order, quantile, ratio
from benchmarks.report import OUTPUT, save
from benchmarks.serving.model_change import lone_s
from benchmarks.serving.pace import at_random, constant, load
from benchmarks.serving.two_versions import two_versions
from benchmarks.serving.workload import USUAL, photographs
from benchmarks.usage import Tree, cpu_seconds_of_others
from models.registry.rollouts import Rollouts, Shadow
from models.registry.tallies import ShadowTally, read_tallies, remove_tallies, total
from testing.server import COMMAND, Server, serve

TARGET = 1.05  # p99 beside a shadow by that without
_PERCENTS = (50, 90, 99)
_SHARE = 0.55  # of the time in which the service works
_SHARES = (0.05, 0.25, 0.5, 0.75, 1.0)
_WARM_UP_S = 1.0
_LOADED_S = 60.0
_SETTLE_S = 0.3  # after a change of state
# Of each turn, not counted: its first requests open a connection to a service that has rested, and
# take twice as long. One a turn is nearly the 1% that a p99 leaves out.
_BEGINNING_S = 0.5
_SHADOW_IMAGES = re.compile(
    r'^vgg19_shadow_images_total\{.*outcome="(\w+)".*\} (\S+)$', re.MULTILINE
)


@dataclass
class Measured:
    """Of all parts together."""

    rate: float
    lone_ms: float
    pairs: list[Pair]
    errors: int = 0
    compared: int = 0
    dropped: int = 0


def main() -> None:
    parser = argparse.ArgumentParser(description="Latency beside a shadow.")
    parser.add_argument("--model", choices=["small", "vgg19"], default="small")
    parser.add_argument("--image-size", type=int, default=64, help="px, of VGG-19")
    parser.add_argument("--pairs", type=int, default=8, help="of turns, without and beside")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each turn")
    parser.add_argument("--seen", action="store_true", help="count images, at several loads")
    parser.add_argument("--more", action="store_true", help="add to what was measured last")
    options = parser.parse_args()
    name = f"shadow-{options.model}"
    measured = _read(name) if options.more else None
    settings = {"VGG19_DEVICE": "cpu", "VGG19_WATCH_INTERVAL_S": "1", "VGG19_ACCESS_LOG": "false"}
    with two_versions(options.model, options.image_size) as (home, tags), ExitStack() as stack:
        rollouts = Rollouts(home / "models" / "vgg19")
        if left := rollouts.current():  # of a run that was killed
            rollouts.end(left, "stopped", "a benchmark")
        server = stack.enter_context(serve(home, home / "log", COMMAND, **settings))
        if options.seen:
            asyncio.run(measure_seen(server, home, tags, options.seconds))
            return
        measured = asyncio.run(
            measure(server, home, tags, options.pairs, options.seconds, measured)
        )
    command = " ".join(["python -m benchmarks.monitoring.shadow", *sys.argv[1:]])
    asked = {"model": options.model, "image_size": options.image_size, "command": command}
    turns = [pair.to_json() for pair in measured.pairs]
    save(name, {**asked, **vars(measured), "pairs": turns})
    print(markdown(measured))
    sys.exit(1 if measured.errors or not measured.compared else 0)


def _read(name: str) -> Measured:
    saved = json.loads((OUTPUT / f"{name}.json").read_text())
    pairs = [Pair.read(pair) for pair in saved["pairs"]]
    rest = {key: saved[key] for key in ("rate", "lone_ms", "errors", "compared", "dropped")}
    return Measured(pairs=pairs, **rest)


async def measure(
    server: Server,
    home: Path,
    tags: tuple[str, str],
    pairs: int,
    seconds: float,
    measured: Measured | None,
) -> Measured:
    """`measured` with more pairs, at its rate."""
    against, version = (tag.rpartition(":")[2] for tag in tags)
    directory = home / "models" / "vgg19"
    image = photographs()[USUAL]
    tree = Tree(server.process.pid)
    running: Shadow | None = None
    if measured is None:
        alone_s = await _lone_s(server, image)
        measured = Measured(_SHARE / alone_s, 1e3 * alone_s, [])
    client = Client(server.http_port, image)
    await _turn(client, measured, tree, _WARM_UP_S)
    for states in order(pairs):
        turns = {}
        for state in states:
            if state == "beside" and running is None:
                running = Shadow(version=version, against=against)
                await _begin(directory, running)
            elif state == "without" and running is not None:
                await _end(directory, running, measured)
                running = None
            await asyncio.sleep(_SETTLE_S)
            turns[state] = await _turn(client, measured, tree, seconds)
        measured.pairs.append(Pair(**turns))
    if running is not None:
        await _end(directory, running, measured)
    return measured


async def _lone_s(server: Server, image: bytes) -> float:
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        return await lone_s(client, image)


async def measure_seen(server: Server, home: Path, tags: tuple[str, str], seconds: float) -> None:
    """Print which share of the images a shadow compares, and which it drops, at several loads."""
    against, version = (tag.rpartition(":")[2] for tag in tags)
    image = photographs()[USUAL]
    alone_s = await _lone_s(server, image)
    await _begin(home / "models" / "vgg19", Shadow(version=version, against=against))
    print(f"one request alone takes {1e3 * alone_s:.1f} ms; {seconds:g} s each\n")
    print("| load | requests a second | come | images | compared | dropped |")
    print("|--:|--:|---|--:|--:|--:|")
    for share in _SHARES:
        rate = share / alone_s
        for come, gap in (("evenly", constant(rate)), ("at random", at_random(rate, seed=0))):
            before = await _counted(server)
            with closing(Client(server.http_port, image)) as client, undisturbed():
                async with load(client.ask, gap) as requests:
                    await asyncio.sleep(seconds)
            compared, dropped = (
                after - earlier
                for after, earlier in zip(await _counted(server), before, strict=True)
            )
            count = len(requests)
            print(
                f"| {share:.0%} | {rate:.1f} | {come} | {count} | {compared / count:.1%} "
                f"| {dropped / count:.1%} |"
            )


async def _counted(server: Server) -> tuple[float, float]:
    """Images that the shadow compared, and dropped, so far; what waits for it is neither."""
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        text = (await client.get("/metrics")).text
    found = dict.fromkeys(("agreed", "differed", "dropped"), 0.0)
    for outcome, value in _SHADOW_IMAGES.findall(text):
        if outcome in found:
            found[outcome] += float(value)
    return found["agreed"] + found["differed"], found["dropped"]


async def _turn(client: Client, measured: Measured, tree: Tree, seconds: float) -> Turn:
    gc.collect()
    gc.disable()  # its pauses would be the client's
    others, ours, started = _cpu_seconds(), tree.cpu_seconds(), time.monotonic()
    with watch_stalls() as stalls, undisturbed():
        async with load(client.ask, constant(measured.rate)) as requests:
            counts_from = time.monotonic() + _BEGINNING_S
            await asyncio.sleep(_BEGINNING_S + seconds)
    spent = time.monotonic() - started
    others_s = _cpu_seconds() - others - (tree.cpu_seconds() - ours)
    gc.enable()
    client.close()  # the service ends a connection that waits for the next turn
    problems = [one.problem for one in requests if one.problem]
    if problems:
        print("problem:", problems[0], file=sys.stderr)
    measured.errors += len(problems)
    times: dict[bool, list[float]] = {False: [], True: []}
    for one in requests:
        if one.due < counts_from:
            continue
        stalled = overlaps(stalls, one.due, one.ended)
        times[stalled].append(round(1e3 * (one.ended - one.due), 3))
    return Turn(times[False], round(max(0.0, others_s) / spent, 3), times[True])


def _cpu_seconds() -> float:
    """Of others: processes, and what the hypervisor gave to other machines."""
    return cpu_seconds_of_others() + float(getattr(psutil.cpu_times(), "steal", 0.0))


async def _begin(directory: Path, shadow: Shadow) -> None:
    """Returns when it answers."""
    remove_tallies(directory, shadow.id)
    Rollouts(directory).begin(shadow, "a benchmark")
    deadline = time.monotonic() + _LOADED_S
    while not any(t.state == "running" for t in read_tallies(directory, shadow.id, ShadowTally)):
        if time.monotonic() > deadline:
            raise TimeoutError(f"the shadow doesn't run after {_LOADED_S:g} s")
        await asyncio.sleep(0.2)


async def _end(directory: Path, shadow: Shadow, measured: Measured) -> None:
    """Returns when it has gone, and counts the images that it was compared on."""
    Rollouts(directory).end(shadow, "stopped", "a benchmark")
    while True:
        tallies = read_tallies(directory, shadow.id, ShadowTally)
        if all(tally.state != "running" for tally in tallies):
            seen = total(tallies)
            measured.compared += seen.images
            measured.dropped += seen.dropped
            return
        await asyncio.sleep(0.2)


def markdown(measured: Measured) -> str:
    quiet = [pair for pair in measured.pairs if pair.is_quiet]
    lines = [
        (
            f"{measured.rate:.1f} requests/s, one alone takes {measured.lone_ms:.1f} ms; "
            f"{measured.errors} errors; the shadow compared {measured.compared} images and dropped "
            f"{measured.dropped}; {len(quiet)} of {len(measured.pairs)} pairs of turns count, in "
            f"which others used at most {MAX_OTHERS_CORES} cores"
        )
    ]
    if not quiet:
        return lines[0]
    without, beside = [pair.without for pair in quiet], [pair.beside for pair in quiet]
    lines += [
        "",
        "| | without, ms | beside a shadow, ms | ratio, and 95% of the bootstrap |",
        "|---|--:|--:|--:|",
    ]
    for name in ("times_ms", "stalled_ms"):
        counts = (sum(len(getattr(turn, name)) for turn in turns) for turns in (without, beside))
        what = "requests" if name == "times_ms" else "left out, as the machine stood still"
        lines.append(f"| {what} | {' | '.join(map(str, counts))} | |")
    for percent in _PERCENTS:
        values = (quantile(turns, percent) for turns in (without, beside))
        shown = " | ".join(f"{value:.2f}" for value in values)
        lines.append(f"| p{percent} | {shown} | {ratio(beside, without, percent)} |")
    half = len(without) // 2
    if half:
        noise = ratio(without[0 : 2 * half : 2], without[1 : 2 * half : 2], 99)
        lines += ["", f"p99 without by p99 without, every other turn: {noise}"]
    return "\n".join([*lines, f"p99 beside by without is to be {TARGET} at most"])


if __name__ == "__main__":
    main()
