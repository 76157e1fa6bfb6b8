"""Which threads compute: one pool for all models of a process, and less of the processor for those
that load another one."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from concurrent.futures import Future
from threading import Lock, Thread, get_native_id
from typing import TypeVar

import onnxruntime as ort

logger = logging.getLogger(__name__)

T = TypeVar("T")
# Of Linux's 0 to 19: ten steps leave a thread a tenth of what others get, where they want the same
# core (1.25 a step, sched(7)). So a load goes on beside requests that never pause, in about ten
# times its time; at SCHED_IDLE it would take 300 times as long.
_STEPS = 10
_LOWEST = 19


class SharedPool:
    """The one pool of threads that sessions of ONNX Runtime on the CPU can share in a process."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._threads = 0

    def share(self, threads: int) -> bool:
        """Have sessions of so many threads use it from now on. The first call makes it, of that
        many, which inherit the caller's priority.

        Returns:
            whether such a session starts no threads of its own.
        """
        if threads == 1:  # which is the one that runs it
            return True
        with self._lock:
            if not self._threads:
                ort.set_global_thread_pool_sizes(threads, 1)  # 1: for parallel branches of a graph
                self._threads = threads
        return self.serves(threads)

    def serves(self, threads: int) -> bool:
        """Whether sessions of so many threads use it."""
        return threads == self._threads


shared_pool = SharedPool()


def in_background(function: Callable[[], T], name: str) -> T:
    """What a function returns or raises, called in a thread that requests go before; wait for it.

    Threads that it starts inherit that. The thread ends with it, as it may not get its priority
    back, and keeps no process alive.
    """
    result: Future[T] = Future()

    def work() -> None:
        give_way()
        try:
            result.set_result(function())
        except BaseException as error:
            result.set_exception(error)

    thread = Thread(target=work, name=name, daemon=True)
    thread.start()
    thread.join()
    return result.result()


def give_way() -> None:
    """Have others go before this thread, for good. Only on Linux do threads have priorities."""
    if sys.platform != "linux":
        return
    try:
        thread = get_native_id()
        niceness = os.getpriority(os.PRIO_PROCESS, thread) + _STEPS
        os.setpriority(os.PRIO_PROCESS, thread, min(niceness, _LOWEST))
    except OSError as error:  # a sandbox
        logger.warning("a load takes as much of the processor as requests do: %s", error)
