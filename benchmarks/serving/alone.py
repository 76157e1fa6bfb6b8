"""What is measured without a server: decoding and the model in a loop; and what others used."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Self

from benchmarks.serving.results import Measurement
from benchmarks.serving.scenarios import REFERENCE
from benchmarks.usage import cpu_seconds_of_others


class Others:
    """The cores that processes used meanwhile which are neither this one nor its children, in
    `cores` after the block."""

    cores = 0.0

    def __enter__(self) -> Self:
        self._started, self._before = time.monotonic(), cpu_seconds_of_others()
        return self

    def not_counting(self, seconds: float) -> None:
        """Of CPU time, which the server used."""
        self._before += seconds

    def __exit__(self, *_: object) -> None:
        used = cpu_seconds_of_others() - self._before
        self.cores = max(0.0, used) / (time.monotonic() - self._started)


def decode_alone(
    name: str, decode: Callable[[], object], seconds: float, number: int
) -> Measurement:
    """A decoder of one image in two threads."""
    until = time.monotonic() + seconds

    def work(_: int) -> int:
        done = 0
        while time.monotonic() < until:
            decode()
            done += 1
        return done

    cpu, started = time.process_time(), time.monotonic()
    with Others() as others, ThreadPoolExecutor(2) as pool:
        done = sum(pool.map(work, range(2)))
    cpu_ms = 1e3 * (time.process_time() - cpu) / done
    rate = done / (time.monotonic() - started)
    return Measurement(
        name, "null", REFERENCE.name, number, rate, cpu_ms_per_request=cpu_ms,
        other_cores=others.cores,
    )  # fmt: skip


def repeat(work: Callable[[], object], seconds: float) -> float:
    """Calls a second, after one that warms up."""
    work()
    started, done = time.monotonic(), 0
    while time.monotonic() - started < seconds:
        work()
        done += 1
    return done / (time.monotonic() - started)
