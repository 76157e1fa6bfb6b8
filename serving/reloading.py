"""Files that may be changed while the service runs: keys, certificates.

What can't be read leaves in force what was read before, is told once, and is tried again. They are
looked at now and then: file-change notifications don't cross the volumes that secrets lie on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

_State = tuple[tuple[int, int, int] | None, ...]


@dataclass(frozen=True)
class Reloadable:
    """Files that count together.

    Args:
        name: for the log.
        reload: reads them and has them count. Raises whatever is wrong with them, and leaves
            everything as it was then. Called in a thread.
        read_before: somebody else has read them, who knows when: the first look reads them again.
    """

    name: str
    files: Sequence[Path]
    reload: Callable[[], None]
    read_before: bool = False


class FileWatch:
    """Looks whether files have changed. What they hold now counts as known.

    Args:
        interval_s: between two looks.
    """

    def __init__(self, reloadables: Sequence[Reloadable], interval_s: float) -> None:
        self._reloadables = reloadables
        self._interval_s = interval_s
        self._known = [None if one.read_before else _state(one.files) for one in reloadables]
        self._told = [""] * len(reloadables)

    async def run(self) -> None:
        """Until it is cancelled."""
        while self._reloadables:
            await asyncio.sleep(self._interval_s)
            await asyncio.to_thread(self.look)

    def look(self) -> None:
        """Read again what has changed."""
        for number, one in enumerate(self._reloadables):
            state = _state(one.files)  # before it is read: a later change is seen next time
            if state == self._known[number]:
                continue
            try:
                one.reload()
            except Exception as error:  # whatever it is: the service goes on with what it has
                self._tell(number, f"{one.name} changed and can't be used: {error}")
                continue
            self._known[number] = state
            self._told[number] = ""
            logger.info("%s was reloaded and applies to new connections and requests", one.name)

    def _tell(self, number: int, problem: str) -> None:
        if problem != self._told[number]:
            logger.error("%s; the previous content stays in force", problem)
        self._told[number] = problem


def _state(files: Sequence[Path]) -> _State:
    """Changes with every way in which files are changed: written, renamed, a link moved."""
    return tuple(map(_state_of, files))


def _state_of(file: Path) -> tuple[int, int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
