"""What is started from the page: commands that run one after another in the background."""

from __future__ import annotations

import os
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.errors import UserError
from models.files import staged_file
from models.text import shown
from review.desk import NotNow

_LINES = 12


@dataclass
class _Run:
    """A job that was started. `state`: running, done, failed, or ended: in good order, but its last
    line says that there is more to it."""

    name: str
    state: str = "running"
    step: str = ""
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=_LINES))


class Jobs:
    """Runs one job at a time, each command in a process of its own, so that the page goes on.

    Args:
        commands: name of a job -> what makes its commands when it begins; they run in order, until
            one fails. Each is asked for when the one before it has ended, so it may depend on what
            that has left.
        table: where the labels are written before a job begins.
        log: what the commands print.
        endings: name of a job -> exit code, other than 0, with which its command ends in good order
            -> what that means.
    """

    def __init__(
        self,
        commands: Mapping[str, Callable[[], Iterable[Sequence[str]]]],
        table: Path,
        log: Path,
        endings: Mapping[str, Mapping[int, str]] | None = None,
    ) -> None:
        self._commands = commands
        self._table = table
        self._log = log
        self._endings = endings or {}
        self._lock = threading.Lock()
        self._run: _Run | None = None
        self._thread: threading.Thread | None = None
        self._process: subprocess.Popen[str] | None = None
        self._closed = False

    def describe(self) -> dict[str, Any]:
        """JSON-ready: which there are, and the last one's state."""
        run = self._run
        return {
            "names": list(self._commands),
            "last": None
            if run is None
            else {
                "name": run.name, "state": run.state, "step": run.step, "lines": list(run.lines),
            },
        }  # fmt: skip

    def start(self, name: str, table: bytes) -> None:
        """Write the labels, and begin.

        Raises:
            NotNow: there is no such job, or another one runs.
        """
        if name not in self._commands:
            raise NotNow(f"there is no job '{name[:50]}'; there are {', '.join(self._commands)}")
        with self._lock:
            if self._run is not None and self._run.state == "running":
                raise NotNow(f"'{self._run.name}' is running; wait for its end")
            with staged_file(self._table) as staging:
                staging.write_bytes(table)
            self._run = _Run(name)
            self._thread = threading.Thread(target=self._work, args=(self._run,), name="job")
            self._thread.start()

    def wait(self) -> None:
        """For the end of the job that runs, if one does."""
        if self._thread is not None:
            self._thread.join()

    def close(self) -> None:
        """End what runs; a `redeploy` that is ended goes on when it is started again."""
        with self._lock:
            self._closed = True
            if self._process is not None and self._process.poll() is None:
                self._process.terminate()
        self.wait()

    def _work(self, run: _Run) -> None:
        endings = self._endings.get(run.name, {})
        state = "failed"  # also by what nobody foresaw: the page must not wait for ever
        try:
            for command in self._commands[run.name]():
                run.step = shown(" ".join(command))
                code = self._do(command, run)
                if code in endings:
                    run.lines.append(endings[code])
                    state = "ended"
                    return
                if code != 0:
                    run.lines.append(f"ended with exit code {code}; see {shown(self._log)}")
                    return
            state = "done"
        except (OSError, UserError) as error:
            run.lines.append(shown(error))
        finally:
            run.state = state

    def _do(self, command: Sequence[str], run: _Run) -> int:
        """Run a command to its end; its exit code."""
        # Lines are told as they come, not by the buffer.
        environment = os.environ | {"COLUMNS": "100", "PYTHONUNBUFFERED": "1"}
        with self._log.open("a", encoding="utf-8") as log:
            log.write(f"$ {run.step}\n")
            with self._lock:
                if self._closed:
                    return 1
                self._process = subprocess.Popen(
                    command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                    errors="replace", env=environment, stdin=subprocess.DEVNULL,
                )  # fmt: skip
            with self._process as process:
                for line in process.stdout or ():
                    log.write(line)
                    run.lines.append(line.rstrip())
                return process.wait()
