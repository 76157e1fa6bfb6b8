"""Memory of files that are mapped, on Linux."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_MAPS = Path("/proc/self/maps")
_MADV_DONTNEED = 4  # madvise(2)


def release_mapped(file: Path) -> None:
    """Give back the pages of a file that this process has mapped and read.

    They count as its memory for as long as it has the file mapped. Whoever reads them again gets
    them from the file: only mappings that are shared and can't be written are released. Elsewhere
    than on Linux nothing happens.
    """
    with suppress(AttributeError, OSError):
        advise = ctypes.CDLL(None).madvise
        for start, end in _mappings(file):
            advise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_DONTNEED)


def _mappings(file: Path) -> Iterator[tuple[int, int]]:
    """First address, and the one behind the last. A line: start-end rwxs offset device inode path
    (proc_pid_maps(5))."""
    wanted = os.path.realpath(file)
    for line in _MAPS.read_text(errors="surrogateescape").splitlines():
        addresses, permissions, *_, path = line.split(maxsplit=5)
        if path == wanted and permissions == "r--s":
            start, end = addresses.split("-")
            yield int(start, 16), int(end, 16)
