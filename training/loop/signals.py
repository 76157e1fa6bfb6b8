"""Signals as requests: what is at work ends, the state is saved, and the process ends as if the
signal had ended it.

A signal that is ignored when training begins stays ignored: `nohup`, and shells without job
control, start their children so.
"""

from __future__ import annotations

import os
import shlex
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from models.errors import UserError

_WORDS = {
    signal.SIGINT: "interrupted",
    signal.SIGTERM: "terminated",
    signal.SIGHUP: "the terminal was closed",
}


class Terminated(UserError):
    """A signal came; the state of the run was saved."""

    def __init__(self, run: Path, number: int = signal.SIGTERM) -> None:
        super().__init__(f"{_WORDS[signal.Signals(number)]}; continue with '{resume_command(run)}'")
        self.exit_code = 128 + number


class StopNow(Exception):
    """A stop was asked for, at a moment between steps."""


@dataclass
class StopRequest:
    """Which signal asked for a stop; 0: none."""

    number: int = 0

    @property
    def requested(self) -> bool:
        return self.number != 0


def resume_command(run: Path) -> str:
    """What goes on with a run, as it is typed."""
    return f"vgg19 train --resume {shlex.quote(str(run))}"


@contextmanager
def stop_on_signals(stop: StopRequest, *, tell: bool) -> Iterator[None]:
    """Note SIGINT, SIGTERM and SIGHUP in `stop` instead of dying of them.

    The same signal again does what it did before. Not SIGHUP: the kernel and the shell both send
    one when a terminal is closed.

    Args:
        tell: say on stderr that it was heard.
    """

    def note(number: int, before: Any) -> None:
        if stop.number == number != signal.SIGHUP:
            signal.signal(number, before)
            signal.raise_signal(number)
            return
        stop.number = stop.number or number
        if tell:
            again = "; Ctrl-C again quits at once" if number == signal.SIGINT else ""
            with suppress(OSError):  # of a closed terminal
                # print() may be at work already, and can't be entered twice.
                os.write(2, f"\nstopping: the state is saved after this step{again}\n".encode())

    with _handled(note):
        yield


@contextmanager
def end_on_signals(run: Path) -> Iterator[None]:
    """Raise `Terminated` where a signal comes: for work that a resumed run does again."""

    def end(number: int, _: object) -> None:
        raise Terminated(run, number)

    with _handled(end):
        yield


@contextmanager
def _handled(handle: Callable[[int, Any], None]) -> Iterator[None]:
    """Call `handle(number, handler before)` for each signal; outside of the main thread, which gets
    them, do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    process = os.getpid()
    before = {number: signal.getsignal(number) for number in _WORDS}

    def called(number: int, _: FrameType | None) -> None:
        if os.getpid() == process:
            handle(number, before[signal.Signals(number)])
        elif number == signal.SIGTERM:  # a loader process, forked: Ctrl-C reaches it as well
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    taken = [number for number in _WORDS if before[number] not in (signal.SIG_IGN, None)]
    for number in taken:
        signal.signal(number, called)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, before[number])
