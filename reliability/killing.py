"""Kills a child process at a chosen one of its steps that change files.

Steps are what Python's audit hooks tell of (opening for writing, making, renaming, linking and
removing names, changing modes and times, locks), whoever's code does it; and the beginning,
middle and end of what they don't tell of: writes, copies and syncs.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

_CHANGES = frozenset(
    {
        *("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink"),
        *("os.chmod", "os.utime", "os.truncate", "os.setxattr", "fcntl.flock"),
        *("shutil.rmtree", "shutil.copyfile", "tempfile.mkstemp", "tempfile.mkdtemp"),
    }
)
_WRITING = os.O_WRONLY | os.O_RDWR
_PIECE_BYTES = 4096


class Steps:
    """Counts the steps of this process, and ends it before the `last` one."""

    def __init__(self, last: int) -> None:
        self._last = last
        self._count = 0

    def install(self) -> None:
        """For good: an audit hook can't be taken away. To be called in a child."""
        sys.addaudithook(self._audit)
        for name in ("write", "fsync", "sendfile"):
            setattr(os, name, self._counted(getattr(os, name)))

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        changes = event in _CHANGES
        if event == "open":
            path, _, flags = arguments
            changes = bool(flags & _WRITING) and not str(path).startswith("/dev/")
        if changes:
            self.step()

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any) -> Any:
            self.step()
            if call.__name__ == "sendfile":  # in pieces, so that a copy has a middle
                *before, count = arguments
                arguments = (*before, min(count, _PIECE_BYTES))
            result = call(*arguments)
            self.step()
            return result

        return counted

    def step(self) -> None:
        self._count += 1
        if self._count == self._last:
            os.kill(os.getpid(), signal.SIGKILL)


def killed(do: Callable[[], object], step: int) -> bool:
    """Do it in a child that is killed before its `step`th step; False if it has fewer.

    Its end, with everything done, counts as the last step.

    Raises:
        RuntimeError: it failed by itself.
    """

    def do_until() -> None:
        steps = Steps(step)
        steps.install()
        try:
            do()
        finally:
            steps.step()

    code = in_child(do_until)
    if code not in (0, -signal.SIGKILL):
        raise RuntimeError(f"the command failed by itself, with code {code}")
    return code != 0


def in_child(do: Callable[[], object]) -> int:
    """Do it in a child; its exit code."""
    child = os.fork()
    if child == 0:
        _end_with(do)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _end_with(do: Callable[[], object]) -> NoReturn:
    """End this child with the exit code that a command would have."""
    code = 1
    try:
        do()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
