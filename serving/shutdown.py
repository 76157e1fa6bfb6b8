"""How the service ends: all of it, whatever it was doing, and with which exit code.

The first process promises that every process ends after a SIGTERM: in peace within the grace
period, by force after it or at a second SIGTERM. A worker promises to end with the first process,
and ends it where it can't start.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

import psutil

from models.bentoml_adapter import FAILED_SIGNAL, restart_at_once, take_signals
from serving.parent_death import be_killed_with

logger = logging.getLogger("bentoml.serve")  # the first process has no other with a handler

_PARENT = "_VGG19_PARENT"  # the process that listens to `end_service`
_ASK_AGAIN_S = 0.2
# What BentoML and the interpreter need beyond the grace period, measured below 2 s.
_MARGIN_S = 8.0


def listen_to_workers(grace_s: float) -> None:
    """In the first process, before it has workers: end as this module promises."""
    if threading.current_thread() is threading.main_thread():  # else there are no handlers
        FirstProcess(grace_s + _MARGIN_S, has_terminal=os.isatty(0)).listen()


class FirstProcess:
    """Ends the workers and itself.

    Args:
        limit_s: after which it ends by force what hasn't ended in peace.
        has_terminal: SIGHUP says that it was closed, and ends the service. Elsewhere it asks
            daemons to read their files again, which workers do by themselves.
    """

    def __init__(self, limit_s: float, *, has_terminal: bool) -> None:
        self._limit_s = limit_s
        self._ends_by = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}
        if has_terminal:
            self._ends_by.add(signal.SIGHUP)
        self._ending = False
        self._failed = False

    def listen(self) -> None:
        take_signals(self._on_signal)
        restart_at_once()
        signal.signal(FAILED_SIGNAL, self._on_failure)
        os.environ[_PARENT] = str(os.getpid())

    def _on_signal(self, number: int, stop: Callable[[], None]) -> None:
        if number not in self._ends_by:
            return
        if self._ending:  # whoever asks twice doesn't want to wait
            self._end_by_force(128 + number)
        self._ending = True
        threading.Thread(target=self._see_to_the_end, args=(stop,), daemon=True).start()

    def _see_to_the_end(self, stop: Callable[[], None]) -> None:
        """Ask until it works: circus forgets what it is asked while it does something else."""
        deadline = time.monotonic() + self._limit_s
        while time.monotonic() < deadline:
            with suppress(RuntimeError):  # its loop has ended, and the interpreter is about to
                stop()
            time.sleep(_ASK_AGAIN_S)
        logger.error("workers didn't stop within %g s; killing them", self._limit_s)
        self._end_by_force(1)

    def _on_failure(self, *_: object) -> None:
        """A worker can't start. It sends SIGTERM after this.

        Left to itself, this process would leave with 0, and `docker run --restart on-failure` or
        systemd would take that for a good end.
        """
        self._failed = True
        atexit.register(_leave_with_1)

    def _end_by_force(self, code: int) -> NoReturn:
        for process in psutil.Process().children(recursive=True):
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        os._exit(1 if self._failed else code)


def end_with_parent() -> None:
    """In a worker: be killed when the first process is gone, however that ended (Linux).

    A worker that were left would keep both ports, and the next service couldn't start, or would
    share them with it. Killed and not asked to end, so that it needs nothing that might hang.
    """
    parent = os.environ.get(_PARENT)
    if parent is not None:
        be_killed_with(int(parent))


def end_service() -> NoReturn:
    """End this worker and its parent.

    Left to itself, BentoML starts a failing worker five times more and then keeps an open port
    that nobody answers on. An ended service is what an orchestrator notices.
    """
    parent = os.getppid()
    if os.environ.get(_PARENT) == str(parent):
        os.kill(parent, FAILED_SIGNAL)
    os.kill(parent, signal.SIGTERM)
    os._exit(1)


def _leave_with_1() -> None:
    """As the last to be registered it is the first at exit; what BentoML cleans up, it has by
    then."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
