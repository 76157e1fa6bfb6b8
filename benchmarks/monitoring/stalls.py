"""When the machine stood still: times in which not even a real-time process could run.

One process on each core, of the highest priority but one, sleeps for 2 ms and looks at the clock.
No process of usual priority delays it, neither a service under test nor a shadow, whatever they do.
So a gap is the hypervisor's or the kernel's, and says nothing about the service.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

_PERIOD_S = 0.002
# Below that, it is lost in the time of a request.
_STALL_S = 0.005
_PRIORITY = 98


@contextmanager
def watch_stalls() -> Iterator[list[tuple[float, float]]]:
    """The list is filled after the block: from when to when, by the monotonic clock.

    Raises:
        PermissionError: no right to real-time priority (CAP_SYS_NICE); before the block.
    """
    found: list[tuple[float, float]] = []
    cores = sorted(os.sched_getaffinity(0))
    own = os.sched_getscheduler(0)
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_PRIORITY))  # tells whether it may
    os.sched_setscheduler(0, own, os.sched_param(0))
    watchers = [
        subprocess.Popen([sys.executable, __file__, str(core)], stdout=subprocess.PIPE, text=True)
        for core in cores
    ]
    try:
        yield found
    finally:
        for watcher in watchers:
            watcher.send_signal(signal.SIGTERM)
            lines = watcher.communicate()[0].splitlines()
            found += [(float(since), float(until)) for since, until in map(str.split, lines)]


def overlaps(stalls: list[tuple[float, float]], since: float, until: float) -> bool:
    """Whether one of the stalls lies partly in that time."""
    return any(begin < until and since < end for begin, end in stalls)


def _watch(core: int) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    os.sched_setaffinity(0, {core})
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_PRIORITY))
    last = time.monotonic()
    while True:
        time.sleep(_PERIOD_S)
        now = time.monotonic()
        if now - last > _STALL_S:
            print(last, now, flush=True)
        last = now


if __name__ == "__main__":
    _watch(int(sys.argv[1]))
