"""The queue of events on the disk: a directory with one file for each event that waits.

TIME-DIGEST.json  an event; TIME orders them (nanoseconds since 1970, 20 digits), DIGEST is its id's
.dropped          one byte for each event that had to make room
.refused          the event that its receiver refused last, and since when
.announced        see `models.events.announcing`
.sending          the lock of the one process that delivers

Promises: what `append` returned from is on the disk and survives the process and the machine; of
two events, the one whose `append` had returned before the other's began comes first, whichever
processes they are of; and there are never more than `limit` of them. Appending takes no lock, so no
process that stands still can hold up another.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from models.events.event import Event
from models.files import staged_file

logger = logging.getLogger(__name__)

# Of 64 kB at most each.
LIMIT = 1000
_DROPPED, _REFUSED, _LOCK = ".dropped", ".refused", ".sending"
# What a killed process left half-written; writing one takes milliseconds.
_LEFTOVER_S = 3600.0


class Outbox:
    """The events that wait in a directory, which is made when the first one comes.

    Args:
        limit: events that wait; the oldest make room for more.
    """

    def __init__(self, directory: Path, limit: int = LIMIT) -> None:
        self.directory = directory
        self._limit = limit

    def append(self, event: Event) -> bool:
        """Put an event at the end.

        Returns:
            False: one with the same id waits already, and nothing was done.

        Raises:
            OSError: the disk is full, say; nothing of the event is left.
            ValueError, TypeError: see `Event.as_json`.
        """
        digest = hashlib.sha256(event.id.encode()).hexdigest()[:16]
        waiting = self.waiting()
        if any(path.name.endswith(f"-{digest}.json") for path in waiting):
            return False
        # Also where the clock was set back since the last one.
        newest = int(waiting[-1].name[:20]) if waiting else 0
        sequence = f"{max(time.time_ns(), newest + 1):020d}"
        with staged_file(self.directory / f"{sequence}-{digest}.json") as staging:
            staging.write_bytes(event.as_json(sequence))
        _sync(self.directory)
        self._make_room()
        return True

    def waiting(self) -> list[Path]:
        """The files of the events that wait, the oldest first."""
        with suppress(FileNotFoundError), os.scandir(self.directory) as entries:
            names = [entry.name for entry in entries]
            return [self.directory / name for name in sorted(names) if _is_event(name)]
        return []

    def remove(self, path: Path) -> None:
        """What was delivered, or made room meanwhile."""
        path.unlink(missing_ok=True)

    def drop(self, path: Path) -> None:
        """Remove an event that nobody will receive, and count it."""
        try:
            path.unlink()
        except FileNotFoundError:  # another process did, and counts it
            return
        descriptor = os.open(
            self.directory / _DROPPED, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644
        )
        try:
            os.write(descriptor, b".")  # several processes count at once without losing one
        finally:
            os.close(descriptor)

    def refused_since(self, path: Path) -> int:
        """Note that an event was refused; since when it is, in nanoseconds since 1970. Only for who
        delivers: one event is the next, so one is noted."""
        note = self.directory / _REFUSED
        try:
            name, since = note.read_text(encoding="utf-8").split()
            if name == path.name:
                return int(since)
        except (FileNotFoundError, ValueError):  # damaged: noted anew
            pass
        now = time.time_ns()
        with staged_file(note) as staging:
            staging.write_text(f"{path.name} {now}", encoding="utf-8")
        return now

    @property
    def dropped(self) -> int:
        """Events that were dropped since the directory was made."""
        try:
            return (self.directory / _DROPPED).stat().st_size
        except FileNotFoundError:
            return 0

    @contextmanager
    def sending(self) -> Iterator[bool]:
        """Whether this process may deliver. One at a time does, so that the order holds; the lock
        is the kernel's and ends with its process.

        Raises:
            OSError: the directory can't be made or written.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / _LOCK).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            self._tidy()
            yield True

    def _make_room(self) -> None:
        waiting = self.waiting()
        for path in waiting[: max(0, len(waiting) - self._limit)]:
            self.drop(path)
            logger.warning(
                "%d events wait in %s, the limit; the oldest is dropped (%d by now): their "
                "receiver is away", self._limit, self.directory, self.dropped
            )  # fmt: skip

    def _tidy(self) -> None:
        """Remove what killed processes left half-written."""
        oldest = time.time() - _LEFTOVER_S
        for path in self.directory.glob(".*.json-*"):
            with suppress(OSError):
                if path.stat().st_mtime < oldest:
                    path.unlink()


def _is_event(name: str) -> bool:
    return name[:20].isdigit() and name.endswith(".json")


def _sync(directory: Path) -> None:
    """Have a rename in it survive a power failure."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
