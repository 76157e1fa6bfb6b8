"""A candidate's process, from its parent's side: start it, ask it, pause it, kill it.

Promise: `pause`, `resume` and `kill` take microseconds and never wait, whatever the process does.
It ends with its parent, also while it is stopped: it can't be paused before the kernel knows.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Lock
from typing import Any

from serving import parent_death

_ROOT = Path(__file__).parents[2]
# A few hundred bytes, and a label or a reason.
_MAX_MESSAGE_BYTES = 100_000
# The least that there is: on Linux 1.5% of a core beside a process that is busy. Pausing it is for
# the requests of this worker; this is for those of other workers, and of its first milliseconds.
_NICE = 19
# From its start until it ends with its parent: 30 ms on an idle machine.
_BOUND_S = 30.0
# From the end of its connection to its own end, of which the code tells: some milliseconds of a
# core, of which a process of the lowest priority gets 1% beside busy ones.
_ENDING_S = 10.0


class ProcessEnded(Exception):
    """It ended, or was killed, and has no answer; the message says how."""


class CandidateProcess:
    """One that runs. `ask` belongs to one thread, the rest to any.

    Args:
        command: to which the number of a socket is added. Starting takes some 30 ms.
    """

    def __init__(self, command: Sequence[str]) -> None:
        ours, theirs = socket.socketpair()
        # Blocked until the code ignores them, half a second later: a terminal's Ctrl-C and a
        # supervisor's SIGTERM reach the whole group, and aren't the candidate's failure.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
        bound, tell = os.pipe()
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [*_bound(tell), *command, str(theirs.fileno())],
                    pass_fds=[theirs.fileno(), tell],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,  # the worker's own is its access log
                    env=os.environ | {"PYTHONPATH": path},
                )
        except BaseException:
            os.close(bound)
            raise
        finally:
            os.close(tell)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        self._connection = Connection(ours.detach())
        self._lock = Lock()
        self._paused = False
        self.pauses = 0
        self._ran_s = 0.0
        self._since: float | None = None
        with suppress(ProcessLookupError):
            os.setpriority(os.PRIO_PROCESS, self.pid, _NICE)
        self._wait_until_bound(bound)

    def _wait_until_bound(self, bound: int) -> None:
        """Until it ends with this process, or has ended: who waits for its message is told."""
        told = select.poll()  # select.select can't watch number 1024 and above
        told.register(bound, select.POLLIN)
        if not told.poll(1e3 * _BOUND_S):
            self.kill()
        os.close(bound)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ran_s(self) -> float:
        """How long it has had for what it does now, without the pauses; 0: it does nothing."""
        with self._lock:
            return 0.0 if self._since is None else self._spent()

    def wait(self) -> dict[str, Any]:
        """Its next message, which it sends unasked.

        Raises:
            ProcessEnded
        """
        with self._timed():
            return self._receive()

    def use_idle_time(self) -> None:
        """Have its threads run only where no other process wants to (Linux): who is woken for a
        request takes the core at once. Beside two busy processes of nice 19, 1% of 1,200 timers
        were late by 0.32 ms or more, one by 9 ms; beside two such as this, by 0.10 ms, and 3 ms.
        """
        if sys.platform != "linux":
            return
        with suppress(OSError):  # it, or one of its threads, has ended
            for thread in Path(f"/proc/{self.pid}/task").iterdir():
                os.sched_setscheduler(int(thread.name), os.SCHED_IDLE, os.sched_param(0))

    @property
    def wants_to_run(self) -> bool:
        """Whether one of its threads waits for a core or has it: it doesn't hang in a wait."""
        with suppress(OSError):
            tasks = Path(f"/proc/{self.pid}/task").glob("*/stat")
            return any(task.read_text().rpartition(")")[2].split()[0] == "R" for task in tasks)
        return False

    @property
    def cpu_s(self) -> float:
        """Processor time of all its threads so far; 0: it has ended."""
        with suppress(OSError):
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return 0.0

    def ask(self, question: dict[str, Any], image: bytes) -> dict[str, Any]:
        """Its answer, see `serving.rollout.child.Candidate.answer`.

        Raises:
            ProcessEnded
        """
        with self._timed():  # it may hang before it has read all of the question
            try:
                self._connection.send_bytes(json.dumps(question).encode())
                self._connection.send_bytes(image)
            except OSError:
                raise ProcessEnded(self._how()) from None
            return self._receive()

    def _receive(self) -> dict[str, Any]:
        try:
            message = json.loads(self._connection.recv_bytes(_MAX_MESSAGE_BYTES))
        except (EOFError, OSError, ValueError):
            raise ProcessEnded(self._how()) from None
        return dict(message)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        with self._lock:
            self._ran_s, self._since = 0.0, time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self._since = None

    def pause(self) -> None:
        with self._lock:
            if self._paused:
                return
            if self._since is not None:
                self._ran_s = self._spent()
            self._paused = True
            self.pauses += 1
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        with self._lock:
            if not self._paused:
                return
            self._paused = False
            if self._since is not None:
                self._since = time.monotonic()
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """Whoever waits for its answer gets ProcessEnded."""
        self._signal(signal.SIGKILL)

    def close(self) -> None:
        """Kill it, and leave nothing of it. Of the thread that asks."""
        self.kill()
        self._process.wait()
        with suppress(OSError):
            self._connection.close()

    def _spent(self) -> float:
        """With the lock held, and something under way."""
        assert self._since is not None
        return self._ran_s + (0.0 if self._paused else time.monotonic() - self._since)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            self._process.send_signal(number)  # looks first whether it is still that process

    def _how(self) -> str:
        try:
            code = self._process.wait(_ENDING_S)
        except subprocess.TimeoutExpired:  # it sent what it shouldn't, or closed the connection
            self.kill()
            code = self._process.wait()
        if code < 0:
            return f"its process ended by {signal.Signals(-code).name}"
        return f"its process ended with exit code {code}"


def _bound(tell: int) -> list[str]:
    """What a command begins with, so that the process ends with this one; told into a pipe."""
    return [sys.executable, "-I", "-S", parent_death.__file__, str(os.getpid()), str(tell)]


def candidate_command(version: str, worker_index: int) -> list[str]:
    """Of `serving.rollout.child`."""
    return [sys.executable, "-m", "serving.rollout.child", version, str(worker_index)]
