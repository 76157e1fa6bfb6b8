"""Files of one JSON object a line that are only ever appended to, and the lock around a change."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

T = TypeVar("T", bound=BaseModel)


def append(file: Path, entry: BaseModel) -> None:
    """Add a line; it is on the disk when this returns.

    Raises:
        OSError: it isn't, or only a part of it.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    # The first line break ends what a killed process may have left.
    line = b"\n" + json.dumps(entry.model_dump(mode="json", exclude_none=True)).encode() + b"\n"
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        if os.write(descriptor, line) < len(line):  # a full disk takes what it has room for
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(file: Path, kind: type[T]) -> Iterator[T]:
    """The lines that are whole, in their order; none where there is no file."""
    try:
        lines = file.read_bytes().split(b"\n")
    except FileNotFoundError:
        return
    for line in lines:
        try:
            yield kind.model_validate_json(line)
        except ValidationError:  # the beginning of a line whose process was killed
            continue


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """One change at a time; the lock ends with its process."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
