"""How a worker that can't start ends the whole service, and with which exit code."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from typing import NoReturn

_PARENT = "_VGG19_PARENT"  # the process that listens to `end_service`


def listen_to_workers() -> None:
    """In the first process: leave with exit code 1 if a worker calls `end_service`.

    Left to itself, it would leave with 0, and `docker run --restart on-failure` or systemd would
    take that for a good end.
    """
    if threading.current_thread() is threading.main_thread():  # else there are no handlers
        signal.signal(signal.SIGUSR1, lambda *_: atexit.register(_leave_with_1))
        os.environ[_PARENT] = str(os.getpid())


def end_service() -> NoReturn:
    """End this worker and its parent.

    Left to itself, BentoML starts a failing worker five times more and then keeps an open port
    that nobody answers on. An ended service is what an orchestrator notices.
    """
    parent = os.getppid()
    if os.environ.get(_PARENT) == str(parent):
        os.kill(parent, signal.SIGUSR1)
    os.kill(parent, signal.SIGTERM)
    os._exit(1)


def _leave_with_1() -> None:
    """As the last to be registered it is the first at exit; what BentoML cleans up, it has by
    then."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
