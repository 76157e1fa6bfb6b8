"""What the workers of a service, or of several, know together of one model's production: a folder.

spool/*.npz   what one worker counted in a few seconds
state.npz     `models.monitoring.watch.Watch`, as it was saved last
summary.json  what it says
told.json     ids of the alarms that were told as events

Promise: each image counts once, whichever worker dies when, but for those that a worker killed by
force had not written yet; and the folder doesn't grow, however long the service runs.
"""

from __future__ import annotations

import atexit
import fcntl
import json
import os
import shutil
import tempfile
import time
import uuid
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SHARED = "_VGG19_DRIFT"
_SUFFIX = ".npz"
_LEFTOVER_S = 600.0
# What numpy raises of files that are no archives of arrays.
_UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)

Arrays = dict[str, NDArray[Any]]


def make_shared_folder() -> None:
    """In the first process, before it has workers: a folder for all of them, removed when the
    process ends.

    Raises:
        OSError: there is no room for temporary files.
    """
    folder = tempfile.mkdtemp(prefix="vgg19-drift-")
    os.environ[_SHARED] = folder
    atexit.register(shutil.rmtree, folder, ignore_errors=True)


def shared_folder() -> Path:
    """In a worker: that of the first process; one of its own where that made none."""
    if _SHARED not in os.environ:
        make_shared_folder()
    return Path(os.environ[_SHARED])


class DriftStore:
    """The folder of one version.

    Raises:
        OSError: it can't be made.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._spool = path / "spool"
        self._spool.mkdir(parents=True, exist_ok=True, mode=0o700)

    def spool(self, counts: NDArray[np.int64], images: int) -> None:
        """Hand over what was counted, int64[L]."""
        self._replace(self._spool / f"{uuid.uuid4().hex}{_SUFFIX}", counts=counts, images=images)

    @contextmanager
    def lead(self) -> Iterator[bool]:
        """Whether nobody else reads the spool and writes the state; nobody does in the block."""
        with (self._path / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    def state(self) -> Arrays | None:
        """As it was saved; None: there is none that can be read. Only for who leads."""
        try:
            with np.load(self._path / "state.npz", allow_pickle=False) as arrays:
                return dict(arrays)
        except _UNREADABLE:
            return None

    def spooled(self, state: Arrays | None, size: int) -> tuple[list[str], NDArray[np.int64], int]:
        """The files that the state doesn't have yet, their sum int64[size], and its images. Only
        for who leads.

        What the state has is removed: whoever saved it may have died before that.
        """
        for name in [] if state is None else state["taken"].tolist():
            (self._spool / name).unlink(missing_ok=True)
        counts, images, names = np.zeros(size, np.int64), 0, []
        self._remove_leftovers()
        for path in sorted(self._spool.glob(f"*{_SUFFIX}")):
            names.append(path.name)
            with suppress(*_UNREADABLE), np.load(path, allow_pickle=False) as arrays:
                if arrays["counts"].shape == counts.shape:
                    counts += arrays["counts"]
                    images += int(arrays["images"])
        return names, counts, images

    def save(self, state: Arrays, taken: list[str], summary: dict[str, Any]) -> None:
        """Save what has come of these spooled files, then remove them. Only for who leads."""
        self._replace(self._path / "state.npz", **state, taken=np.array(taken, np.str_))
        self._replace_text("summary.json", json.dumps(summary))
        for name in taken:
            (self._spool / name).unlink(missing_ok=True)

    def summary(self) -> dict[str, Any] | None:
        """As it was saved last; None: nothing was yet."""
        try:
            content: dict[str, Any] = json.loads((self._path / "summary.json").read_bytes())
        except (OSError, ValueError):
            return None
        return content

    def told(self) -> set[str]:
        """As it was noted. Only for who leads."""
        try:
            return set(json.loads((self._path / "told.json").read_bytes()))
        except (OSError, ValueError, TypeError):
            return set()

    def note_told(self, ids: set[str]) -> None:
        """Note which alarms were told. Only for who leads."""
        self._replace_text("told.json", json.dumps(sorted(ids)))

    def _remove_leftovers(self) -> None:
        """Half-written files of workers that were killed."""
        for path in self._spool.glob("*.new"):
            with suppress(FileNotFoundError):  # it is whole now
                if time.time() - path.stat().st_mtime > _LEFTOVER_S:
                    path.unlink()

    def _replace_text(self, name: str, text: str) -> None:
        """As `_replace`. Only for who leads."""
        staging = self._path / f"{name}.new"
        staging.write_text(text, encoding="utf-8")
        staging.replace(self._path / name)

    def _replace(self, path: Path, **arrays: Any) -> None:
        """Whole or not at all. Not synced: after a power cut the count begins anew."""
        staging = path.with_name(f"{path.name}.{os.getpid()}.new")
        with staging.open("wb") as file:
            np.savez(file, **arrays)
        staging.replace(path)
