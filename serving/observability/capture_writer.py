"""The thread that writes captured images to their location.

Promise: nobody waits for the location, neither requests nor the end of the service; what waits for
it is bounded in bytes; and an error of it is told once and tried again (`serving.core.supervisor`).
"""

from __future__ import annotations

import logging
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from threading import Condition, Thread
from typing import Any

from models.locations import list_files
from serving.core.supervisor import Supervisor

logger = logging.getLogger(__name__)

# By what name it is logged and counted.
_WORK = "capture"
# Other workers write to the same place, so what lies there is counted anew now and then.
_LIST_EVERY = 100


@dataclass(frozen=True)
class Kept:
    """An image on its way: `STEM.img` and `STEM.json`."""

    stem: str
    image: bytes
    record: bytes

    @property
    def size(self) -> int:
        return len(self.image) + len(self.record)


class CaptureWriter:
    """Writes what it is given, one image after another. Made where the location can be listed.

    Args:
        files: fsspec's file system. root: the place in it.
        limit_bytes: of everything in the location.
        waiting_bytes: of what waits, and of what is being written.
    """

    def __init__(
        self, files: Any, root: str, limit_bytes: int, waiting_bytes: int, supervisor: Supervisor
    ) -> None:
        self._files = files
        self._root = root
        self._limit_bytes = limit_bytes
        self._waiting_bytes = waiting_bytes
        self._supervisor = supervisor
        self._size = sum(size for _, size in self._listed())
        self._written = 0
        self._queue: deque[Kept] = deque()
        self._held_bytes = 0
        self._closed_at: float | None = None  # until when it may still write
        self._changed = Condition()
        # A daemon: one that hangs in the location keeps no process alive.
        self._thread = Thread(target=self._write_all, name="capture", daemon=True)
        self._thread.start()

    def put(self, kept: Kept) -> bool:
        """Whether there was room for it."""
        with self._changed:
            fits = self._held_bytes + kept.size <= self._waiting_bytes
            if not fits or self._closed_at is not None:
                return False
            self._held_bytes += kept.size
            self._queue.append(kept)
            self._changed.notify()
        return True

    def close(self, grace_s: float) -> None:
        """Write what waits, for so long at most; the rest is dropped, and told in one line."""
        with self._changed:
            self._closed_at = time.monotonic() + grace_s
            self._changed.notify()
        self._thread.join(timeout=grace_s)
        with self._changed:
            left = len(self._queue) + self._thread.is_alive()
            self._queue.clear()
        if left:
            logger.warning("%d captured images are lost: the location is slow or unreachable", left)

    def _write_all(self) -> None:
        while (kept := self._next()) is not None:
            pause_s = 0.0
            try:
                self._write(kept)
            except Exception as error:  # of any of fsspec's file systems
                pause_s = self._supervisor.failed(_WORK, error)
            else:
                self._supervisor.succeeded(_WORK)
            with self._changed:
                self._held_bytes -= kept.size
                if pause_s:  # ended by `close` alone; what comes meanwhile waits, if it fits
                    self._changed.wait_for(lambda: self._closed_at is not None, pause_s)

    def _next(self) -> Kept | None:
        """Waits for one; None: it is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closed_at is not None)
            late = self._closed_at is not None and time.monotonic() >= self._closed_at
            return None if late or not self._queue else self._queue.popleft()

    def _write(self, kept: Kept) -> None:
        self._files.pipe_file(f"{self._root}/{kept.stem}.img", kept.image)
        self._files.pipe_file(f"{self._root}/{kept.stem}.json", kept.record)
        self._size += kept.size
        self._written += 1
        if self._size > self._limit_bytes or self._written % _LIST_EVERY == 0:
            self._make_room()

    def _make_room(self) -> None:
        """Remove the oldest, by name, until nine tenths of the limit are left."""
        entries = self._listed()
        self._size = sum(size for _, size in entries)
        if self._size <= self._limit_bytes:
            return
        for name, size in entries:
            if self._size <= 0.9 * self._limit_bytes:
                break
            with suppress(FileNotFoundError):  # another worker makes room as well
                self._files.rm_file(f"{self._root}/{name}")
            self._size -= size

    def _listed(self) -> list[tuple[str, int]]:
        """(name, bytes) of what was kept, the oldest first."""
        entries = list_files(self._files, self._root)
        return [(name, size) for name, size in entries if name[:20].isdigit()]
