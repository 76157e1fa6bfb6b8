"""Faults of a running service, one after another, each with what was promised and what came of it.

    python -m reliability.serving

Every fault is a function that starts its own service and gives a `Finding`. Requests are counted on
the clients' side: what was sent must have been answered or refused. Ends with 1 if a promise was
broken. `make test` does the same with smaller numbers (tests/integration/test_faults.py).
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import psutil

from reliability.clients import ANSWERED, Client, HttpClient, ask_and_vanish, clients_of, lost
from reliability.resources import LIMITS, sample
from testing.commands import vgg19
from testing.images import coloured_pixels, encode
from testing.server import Server, make_home, register_version, serve

IMAGE, WHITE = encode(coloured_pixels(1)), encode(np.full((32, 32, 3), 255, np.uint8))
_FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")  # Debian's `faketime`
_QUIET = {"VGG19_ACCESS_LOG": "false"}
_WAIT_S = 30.0


@dataclass(frozen=True)
class Finding:
    """A row of the table. `broken`: why the promise was not kept; "": it was."""

    fault: str
    promised: str
    happened: str
    broken: str = ""


def main() -> None:
    findings = []
    for fault in FAULTS:
        with tempfile.TemporaryDirectory() as name:
            finding = fault(Path(name))
        findings.append(finding)
        print(f"{'BROKEN ' + finding.broken if finding.broken else 'kept'}: {finding}", flush=True)
    print("\n| fault | promised | happened |\n|---|---|---|")
    for finding in findings:
        print(f"| {finding.fault} | {finding.promised} | {finding.happened} |")
    sys.exit(any(finding.broken for finding in findings))


def model_that_raises(place: Path, requests: int = 400) -> Finding:
    """ONNX Runtime raises for one image in ten, which shares its batches with good ones."""
    home = make_home(place, fails_on_white=True)
    with serve(home, place / "log", **_QUIET) as server:
        good, bad = asyncio.run(_good_and_raising(server, requests))
        after = _answers(server)
    told = sum(what.startswith(("500", "INTERNAL")) for what in bad.elements())
    leaks = [what for what in bad if "Gather" in what or "ONNX" in what]
    return Finding(
        f"the model raises for every tenth of {good.total() + bad.total()} images, which come in "
        "batches with good ones",
        "only those fail, with 500 or INTERNAL and no word of why; the service goes on",
        f"{good[ANSWERED]} of {good.total()} good ones answered, {told} of {bad.total()} others "
        "told an internal error",
        _first(
            (good != Counter({ANSWERED: good.total()}), f"good images: {good}"),
            (told != bad.total() or bool(leaks), f"bad images: {bad}"),
            (not after, "no answer afterwards"),
        ),
    )


async def _good_and_raising(server: Server, requests: int) -> tuple[Counter[str], Counter[str]]:
    async with clients_of(server, 64) as clients:
        places = asyncio.Semaphore(64)

        async def ask(number: int) -> tuple[bool, str]:
            white = number % 10 == 0
            async with places:
                return white, await clients[number // 10 % 2].ask(WHITE if white else IMAGE)

        found = await asyncio.gather(*(ask(number) for number in range(requests)))
    return (
        Counter(what for white, what in found if not white),
        Counter(what for white, what in found if white),
    )


# So many products take a second on a fast core, of which half is left to be seen; longer on a slow
# or busy one.
_BUSY = 1000
_HANGS = {"VGG19_SESSION_TIMEOUT_S": "0.3", "VGG19_INTRA_OP_THREADS": "1"}


def model_that_hangs(place: Path) -> Finding:
    """A batch that takes longer than VGG19_SESSION_TIMEOUT_S."""
    return _hang("inference hangs", make_home(place, busy=_BUSY), place, "")


def explainer_that_hangs(place: Path) -> Finding:
    """A heat map that takes longer than that, of a model that is quick."""
    return _hang("a heat map hangs", make_home(place, explainer_busy=_BUSY), place, "?explain=true")


def _hang(fault: str, home: Path, place: Path, query: str) -> Finding:
    with serve(home, place / "log", **_HANGS, **_QUIET) as server:
        answering = asyncio.run(_statuses_while_it_runs(server, query))
    # More than once where something else took as long, on a machine that others keep busy.
    recovers = answering[0] == answering[-1] == 200 and set(answering) == {200, 503}
    return Finding(
        fault,
        "/livez answers 503 from VGG19_SESSION_TIMEOUT_S on, so that an orchestrator starts it "
        "anew; 200 before and after",
        f"/livez meanwhile: {' '.join(map(str, answering))}",
        "" if recovers else f"/livez was {answering}",
    )


async def _statuses_while_it_runs(server: Server, query: str) -> list[int]:
    """The different answers of /livez, in their order, from before a request until after it."""
    async with httpx.AsyncClient(timeout=60) as asker, httpx.AsyncClient(timeout=30) as probe:
        seen = [(await probe.get(f"{server.url}/livez")).status_code]
        asking = asyncio.create_task(HttpClient(asker, server.url, query).ask(IMAGE))
        while not asking.done() or seen[-1] != httpx.codes.OK:
            status = (await probe.get(f"{server.url}/livez")).status_code
            if seen[-1:] != [status]:
                seen.append(status)
            await asyncio.sleep(0.02)
        assert await asking == ANSWERED
    return seen


def worker_killed(place: Path, times: int = 5) -> Finding:
    """SIGKILL of one of two workers under load."""
    home = make_home(place)
    with serve(home, place / "log", VGG19_WORKERS="2", **_QUIET) as server:
        outcomes, returned = asyncio.run(_kill_workers(server, times))
    cut = sum(lost(outcomes).values())
    return Finding(
        f"one of two workers is killed (SIGKILL) under load, {times} times",
        "the other one answers meanwhile; what was in the killed one is cut off and seen so by the "
        "client; BentoML starts it again",
        f"{outcomes.total()} sent, {outcomes[ANSWERED]} answered, {cut} cut off; {returned} of "
        f"{times} came back",
        _first(
            (returned != times, "a worker did not come back"),
            # Each kill can cut off what its clients had under way, once.
            (cut > times * _CLIENTS, f"more cut off than were under way: {lost(outcomes)}"),
            (outcomes[ANSWERED] < 20 * times, f"hardly any answers: {outcomes}"),
        ),
    )


_CLIENTS = 16


async def _kill_workers(server: Server, times: int) -> tuple[Counter[str], int]:
    """What became of the requests, and how often two workers were there again."""
    returned = 0
    async with _asking(server, _CLIENTS) as outcomes:
        for _ in range(times):
            await asyncio.sleep(0.5)
            victim, before = server.workers()[0], outcomes[ANSWERED]
            victim.kill()
            returned += await _until(partial(_has_two_others, server, victim))
            if not await _until(partial(_more_than, outcomes, before + 20)):
                break  # too few answers, as the finding says
    return outcomes, returned


def _has_two_others(server: Server, victim: psutil.Process) -> bool:
    workers = server.workers()
    return len(workers) == 2 and victim not in workers


def _more_than(outcomes: Counter[str], count: int) -> bool:
    return outcomes[ANSWERED] > count


def swap_to_broken(place: Path, times: int = 5) -> Finding:
    """Under load, a version is promoted whose golden samples lie, or that was damaged since."""
    home = place / "home"
    good, bad = register_version(place, 1), register_version(place, 2, lies=True)
    vgg19(home, "promote", good)
    with serve(home, place / "log", VGG19_WATCH_INTERVAL_S="1", **_QUIET) as server:
        outcomes, refused = asyncio.run(_swap_to_broken(server, home, (good, bad), times))
    return Finding(
        f"a version that can't be loaded is promoted under load, {times} times",
        "the old one goes on, no request fails, /model says why",
        f"{outcomes.total()} sent, {outcomes[ANSWERED]} answered; refused {refused} times",
        _first(
            (outcomes != Counter({ANSWERED: outcomes.total()}), str(outcomes)),
            (refused != times, "a broken model was not refused"),
        ),
    )


async def _swap_to_broken(
    server: Server, home: Path, versions: tuple[str, str], times: int
) -> tuple[Counter[str], int]:
    refused = 0
    async with _asking(server, _CLIENTS) as outcomes, httpx.AsyncClient(timeout=30) as probe:

        async def failed_load() -> bool:
            return (await probe.get(f"{server.url}/model")).json()["failed_load"] is not None

        for _ in range(times):
            for version, fails in zip(reversed(versions), (True, False), strict=True):
                await asyncio.to_thread(vgg19, home, "promote", version)
                async with asyncio.timeout(_WAIT_S):
                    while await failed_load() is not fails:
                        await asyncio.sleep(0.05)
                refused += fails
    return outcomes, refused


def clients_vanish(place: Path, thousands: int = 10) -> Finding:
    """Clients that go away while their request is decoded, waits, or runs."""
    home = make_home(place, busy=20)
    with serve(home, place / "log", **_QUIET) as server:
        asyncio.run(_vanish(server, 1000))  # caches and pools fill
        before = sample(server.process.pid)
        outcomes = asyncio.run(_vanish(server, 1000 * thousands))
        after_answer = _answers(server)
        time.sleep(2)
        after = sample(server.process.pid)
    grown = {
        figure: round(getattr(after, figure) - getattr(before, figure), 1) for figure in LIMITS
    }
    return Finding(
        f"{1000 * thousands:,} clients go away before their answer, on both transports",
        "their work is dropped, the next client is answered, nothing is kept",
        f"{outcomes.total():,} sent, {dict(outcomes)}; afterwards {grown['memory_mb']:+} MB, "
        f"{grown['descriptors']:+} descriptors, {grown['threads']:+} threads",
        _first(
            (bool(lost(outcomes)), str(lost(outcomes))),
            (not after_answer, "no answer afterwards"),
            (any(grown[figure] > LIMITS[figure] for figure in LIMITS), f"grown: {grown}"),
        ),
    )


async def _vanish(server: Server, count: int) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    async with clients_of(server, 100) as clients:
        places = asyncio.Semaphore(100)

        async def one(number: int) -> None:
            async with places:
                client = clients[number % 2]
                outcomes[await ask_and_vanish(client, IMAGE, number % 40 / 1000)] += 1

        await asyncio.gather(*(one(number) for number in range(count)))
    return outcomes


def clock_jumps(place: Path) -> Finding:
    """The wall clock jumps a day ahead, and two back, under load."""
    fault = "the wall clock jumps a day ahead and two back under load"
    promised = (
        "no request fails or waits, nothing ends early: times are taken from clocks that run on"
    )
    if not _FAKETIME.exists():
        return Finding(fault, promised, "not tried: Debian's package faketime is not installed")
    home, clock = make_home(place), place / "clock"
    clock.write_text("+0\n")
    settings = {
        "LD_PRELOAD": str(_FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    with serve(home, place / "log", **settings) as server:
        outcomes = asyncio.run(_jump(server, clock))
    dates = {line[10:20] for line in (place / "log").read_text().splitlines() if '"time"' in line}
    return Finding(
        fault,
        promised,
        f"{outcomes.total()} sent, {outcomes[ANSWERED]} answered; days in the access log: "
        f"{len(dates)}",
        _first(
            (outcomes != Counter({ANSWERED: outcomes.total()}), str(outcomes)),
            (len(dates) < 3, "the clock did not jump"),
        ),
    )


async def _jump(server: Server, clock: Path) -> Counter[str]:
    async with _asking(server, _CLIENTS) as outcomes:
        for offset in ("+1d", "-1d", "+0"):
            await asyncio.sleep(1)
            clock.write_text(f"{offset}\n")
        await asyncio.sleep(1)
    return outcomes


@asynccontextmanager
async def _asking(server: Server, clients: int) -> AsyncIterator[Counter[str]]:
    """Clients that ask one request after another, half on each transport; what becomes of them."""
    outcomes: Counter[str] = Counter()
    ended = asyncio.Event()

    async def ask(client: Client) -> None:
        while not ended.is_set():
            outcomes[await client.ask(IMAGE)] += 1

    async with clients_of(server) as both:
        asking = [asyncio.create_task(ask(both[number % 2])) for number in range(clients)]
        try:
            yield outcomes
        finally:
            ended.set()
            await asyncio.gather(*asking)


async def _until(condition: Callable[[], bool]) -> bool:
    """Wait for it, up to `_WAIT_S`."""
    deadline = time.monotonic() + _WAIT_S
    while time.monotonic() < deadline:
        if condition():
            return True
        await asyncio.sleep(0.05)
    return False


def _answers(server: Server) -> bool:
    headers = {"Content-Type": "image/png"}
    reply = httpx.post(f"{server.url}/classify", content=IMAGE, headers=headers, timeout=60)
    return reply.status_code == httpx.codes.OK


def _first(*findings: tuple[bool, str]) -> str:
    """What is said of the first that is true; "" if none is."""
    return next((words for is_so, words in findings if is_so), "")


FAULTS: tuple[Callable[[Path], Finding], ...] = (
    model_that_raises,
    model_that_hangs,
    explainer_that_hangs,
    worker_killed,
    swap_to_broken,
    clients_vanish,
    clock_jumps,
)

if __name__ == "__main__":
    main()
