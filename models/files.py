"""Files and directories that take their place whole, or not at all."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

# In each workplace; held by the process that works there, and let go when it dies.
_LOCK = ".vgg19-lock"


@contextmanager
def staged_file(target: Path) -> Iterator[Path]:
    """A path beside `target`; the file written there replaces it when the block succeeds.

    A crash at any moment leaves the old file or the new one, and the new one is on the disk before
    it is seen. On an exception (Ctrl-C included) nothing is left of it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
    except OSError as error:
        error.filename = str(target)
        raise
    os.close(descriptor)
    staging = Path(name)
    try:
        yield staging
        staging.chmod(0o644)  # mkstemp makes it private
        with staging.open("rb") as file:
            os.fsync(file.fileno())
        staging.replace(target)
    except BaseException as error:
        with suppress(OSError):  # of a disk that fails: the first error says more
            staging.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, name, staging):
            error.filename = str(target)  # what a user knows; a write that fails names no file
        raise


@contextmanager
def staged_directory(target: Path) -> Iterator[Path]:
    """A fresh directory that becomes `target`, whole, when the block succeeds.

    On an exception (Ctrl-C included) the staged directory is removed and `target` is untouched.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with workplace(target.parent, f".{target.name}-") as place:
        staging = place / target.name
        staging.mkdir()
        yield staging
        staging.rename(target)


@contextmanager
def workplace(parent: Path, prefix: str) -> Iterator[Path]:
    """A fresh directory in `parent`, removed after the block.

    What is left of those whose process was killed is removed first.
    """
    for leftover in parent.iterdir():
        if leftover.name.startswith(prefix) and leftover.is_dir() and not leftover.is_symlink():
            _remove_if_left(leftover)
    place, lock = _take_place(parent, prefix)
    with lock:
        try:
            yield place
        finally:
            _remove(place)


def _take_place(parent: Path, prefix: str) -> tuple[Path, IO[str]]:
    """Make a directory, and lock it before somebody takes it for a leftover."""
    while True:
        place = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        with suppress(FileNotFoundError):  # somebody did
            lock = (place / _LOCK).open("w")
            with suppress(OSError):  # a file system without locks: then nobody can tidy up either
                fcntl.flock(lock, fcntl.LOCK_EX)
            if (place / _LOCK).exists():
                return place, lock
            lock.close()


def _remove_if_left(place: Path) -> None:
    """Remove a workplace that nobody holds; what has no lock in it is none, unless it is empty."""
    with suppress(OSError):
        place.rmdir()
    with suppress(OSError), (place / _LOCK).open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove(place)


def _remove(place: Path) -> None:
    """The lock last: without it, the rest would no longer be known as a leftover."""
    with suppress(OSError):  # what can't be removed now is a leftover, for the next one
        for path in place.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != _LOCK:
                path.unlink()
        (place / _LOCK).unlink()
        place.rmdir()


def json_text(content: Any) -> str:
    """JSON with a line for each key, and for each object of a list; lists of numbers or words are
    one line: a number to a line, they would be mostly spaces."""
    return "".join(_json_lines(content, "\n")) + "\n"


def _json_lines(content: Any, newline: str) -> Iterator[str]:
    inner = newline + "  "
    if isinstance(content, dict) and content:
        for place, (key, value) in enumerate(content.items()):
            yield f"{',' if place else '{'}{inner}{json.dumps(str(key))}: "
            yield from _json_lines(value, inner)
        yield newline + "}"
    elif isinstance(content, list) and any(isinstance(item, dict) for item in content):
        for place, item in enumerate(content):
            yield f"{',' if place else '['}{inner}{json.dumps(item)}"
        yield newline + "]"
    else:
        yield json.dumps(content)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name in its directory; where the file system can't, copy it."""
    with staged_file(target) as staging:
        staging.unlink()
        try:
            staging.hardlink_to(source)
        except OSError:
            shutil.copyfile(source, staging)
