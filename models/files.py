"""Files and directories that take their place whole, or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def staged_file(target: Path) -> Iterator[Path]:
    """A path beside `target`; the file written there replaces it when the block succeeds.

    A crash at any moment leaves the old file or the new one, and the new one is on the disk before
    it is seen. On an exception (Ctrl-C included) nothing is left of it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
    os.close(descriptor)
    staging = Path(name)
    try:
        yield staging
        staging.chmod(0o644)  # mkstemp makes it private
        with staging.open("rb") as file:
            os.fsync(file.fileno())
        staging.replace(target)
    except BaseException:
        staging.unlink(missing_ok=True)
        raise


@contextmanager
def staged_directory(target: Path) -> Iterator[Path]:
    """A fresh directory beside `target` that takes its place, whole, when the block succeeds.

    On an exception (Ctrl-C included) the staged directory is removed and `target` is untouched.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        staging.chmod(0o755)  # mkdtemp makes it private; the result is to be readable as usual
        yield staging
        staging.rename(target)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name in its directory; where the file system can't, copy it."""
    with staged_file(target) as staging:
        staging.unlink()
        try:
            staging.hardlink_to(source)
        except OSError:
            shutil.copyfile(source, staging)
