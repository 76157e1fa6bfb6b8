"""SIGTERM as a request: the running batch ends, the state is saved, the process ends with 143."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from models.errors import UserError


class Terminated(UserError):
    """SIGTERM came; the state of the run was saved."""

    exit_code = 128 + signal.SIGTERM

    def __init__(self, run: Path) -> None:
        super().__init__(f"terminated; go on with 'vgg19 train --resume {run}'")


@dataclass
class StopRequest:
    requested: bool = False


@contextmanager
def stop_on_sigterm() -> Iterator[StopRequest]:
    """Note SIGTERM instead of dying of it; outside of the main thread, do nothing."""
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def note(_: int, __: object) -> None:
        stop.requested = True

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)
