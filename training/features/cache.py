"""Features on the disk: memory-mapped files that are filled block by block, and never trusted
further than their checksums.

An entry is a directory named by the digest of its key:

key.json      what the features were computed from, and their shape
features.bin  the array, C order
blocks.txt    a line for each finished block: its number and the SHA-256 of its bytes, or "damaged"
              when it was found not to match; the last line of a block counts
lock          byte N is locked by the process that is computing block N

A block is written before its line, so a process that dies leaves a block without a line, or with
one that its bytes don't match: either way it is computed again. Several processes, of one run or of
several, may fill one entry at the same time; each block is computed by the one that locks it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from models.errors import UserError
from models.files import staged_file
from models.paths import user_cache

# Room left on the disk for everything else, in bytes.
FREE_DISK_MARGIN = 2**30

_INVALID = "damaged"


class CacheError(UserError):
    """No such entry."""


FeatureType = Literal["float16", "float32"]


def default_root() -> Path:
    """In the user's cache directory, by the XDG convention."""
    return user_cache() / "features"


@dataclass(frozen=True)
class FeatureKey:
    """What decides every value of an entry; another key is another entry.

    Args:
        ingredients: JSON-ready, whatever the values depend on.
        count: images.
        shape: of one image's features.
        block_size: images computed at once (rounding depends on it).
    """

    ingredients: dict[str, Any]
    count: int
    shape: tuple[int, ...]
    dtype: FeatureType
    block_size: int

    def describe(self) -> dict[str, Any]:
        return {
            "ingredients": self.ingredients,
            "count": self.count,
            "shape": list(self.shape),
            "dtype": self.dtype,
            "block_size": self.block_size,
        }

    def digest(self) -> str:
        text = json.dumps(self.describe(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    @property
    def bytes_per_image(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def size_bytes(self) -> int:
        return self.count * self.bytes_per_image


class FeatureFile:
    """One entry, open for reading and filling. One object an entry and process: closing any file
    descriptor of it releases the process's locks (POSIX record locks).

    Raises:
        OSError: the directory can't be written.
    """

    def __init__(self, root: Path, key: FeatureKey) -> None:
        self.key = key
        self.path = root / key.digest()
        self.path.mkdir(parents=True, exist_ok=True)
        if not (self.path / "key.json").exists():
            with staged_file(self.path / "key.json") as staging:
                staging.write_text(json.dumps(key.describe(), indent=2) + "\n", encoding="utf-8")
        os.utime(self.path / "key.json")  # when it was last used
        self._data = self._open("features.bin", os.O_RDWR)
        self._journal = self._open("blocks.txt", os.O_RDWR | os.O_APPEND)
        self._locks = self._open("lock", os.O_RDWR)
        self._read_to = 0
        self._recorded: dict[int, str] = {}
        if os.fstat(self._data).st_size != key.size_bytes:
            os.truncate(self._data, key.size_bytes)
        self._invalidate_damaged()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for descriptor in (self._data, self._journal, self._locks):
            os.close(descriptor)

    @property
    def blocks(self) -> int:
        return -(-self.key.count // self.key.block_size)

    def images(self, block: int) -> range:
        """The images of a block."""
        first = block * self.key.block_size
        return range(first, min(first + self.key.block_size, self.key.count))

    def missing(self) -> list[int]:
        """The blocks that nobody has finished yet."""
        self._read_journal()
        return [block for block in range(self.blocks) if block not in self._recorded]

    def claim(self, blocks: Iterable[int], *, wait: bool) -> Iterator[int]:
        """Lock the given blocks one after the other, and yield those that are still to be computed.

        A block that this process has claimed and not yet written is yielded again: locks are
        between processes.

        Args:
            wait: for other processes; else the blocks that they hold are passed over.
        """
        for block in blocks:
            try:
                fcntl.lockf(self._locks, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, block)
            except (BlockingIOError, PermissionError):  # which of the two is up to the system
                continue
            self._read_journal()
            if block in self._recorded:
                self._release(block)
            else:
                yield block

    def write(self, block: int, features: NDArray[np.generic]) -> None:
        """Write a claimed block, and release it.

        Args:
            features: `key.dtype`[len(images(block)), *key.shape].
        """
        content = np.ascontiguousarray(features).tobytes()
        offset = block * self.key.block_size * self.key.bytes_per_image
        _write_all(self._data, content, offset)
        self._record(block, hashlib.sha256(content).hexdigest())
        self._release(block)

    def array(self) -> NDArray[np.generic]:
        """The whole entry, mapped read-only: `key.dtype`[count, *shape]."""
        assert not self.missing(), "features are read before they are computed"
        shape = (self.key.count, *self.key.shape)
        return np.memmap(self.path / "features.bin", dtype=self.key.dtype, mode="r", shape=shape)

    def _open(self, name: str, flags: int) -> int:
        return os.open(self.path / name, flags | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def _release(self, block: int) -> None:
        fcntl.lockf(self._locks, fcntl.LOCK_UN, 1, block)

    def _record(self, block: int, digest: str) -> None:
        # The line before may have been cut off.
        os.write(self._journal, f"\n{block} {digest}\n".encode())

    def _read_journal(self) -> None:
        """Parse the whole lines that were added since; a line that a crash cut off is none."""
        size = os.fstat(self._journal).st_size
        added = os.pread(self._journal, size - self._read_to, self._read_to)
        whole = added[: added.rfind(b"\n") + 1]
        self._read_to += len(whole)
        _parse(self._recorded, whole)

    def _invalidate_damaged(self) -> None:
        """Read every recorded block; those that their checksum doesn't match are to be redone."""
        self._read_journal()
        for block, expected in list(self._recorded.items()):
            images = self.images(block)
            size = self.key.bytes_per_image
            content = os.pread(self._data, len(images) * size, images.start * size)
            if hashlib.sha256(content).hexdigest() != expected:
                self._record(block, _INVALID)


@dataclass(frozen=True)
class Entry:
    """What `vgg19 cache list` shows of an entry. `progress` is 0..1."""

    path: Path
    ingredients: dict[str, Any]
    count: int
    dtype: str
    size_bytes: int
    progress: float
    last_used: float


def list_entries(root: Path) -> list[Entry]:
    """The entries in `root`, the last used first."""
    found = (_entry(path) for path in sorted(root.glob("*/key.json")))
    return sorted((e for e in found if e), key=lambda entry: entry.last_used, reverse=True)


def find_entries(root: Path, ids: Iterable[str]) -> list[Entry]:
    """The entries whose digests begin so.

    Raises:
        CacheError: one of the beginnings fits none.
    """
    entries = list_entries(root)
    found: dict[Path, Entry] = {}
    for beginning in ids:
        fitting = {entry.path: entry for entry in entries if entry.path.name.startswith(beginning)}
        if not fitting and beginning:
            raise CacheError(f"nothing in {root} is called {beginning}; see 'vgg19 cache list'")
        found |= fitting
    return list(found.values())


def remove(entry: Entry) -> None:
    """Remove an entry. Whoever has it open keeps what is open."""
    shutil.rmtree(entry.path, ignore_errors=True)


def evict(root: Path, wanted: Mapping[str, int], limit: int) -> bool:
    """Remove other entries, the longest unused first, until the wanted ones fit.

    Args:
        wanted: digest -> bytes when full, of entries that may be there already.
        limit: of all entries together, in bytes.

    Returns:
        whether there is room, under the limit and on the disk. If not, nothing is removed.
    """
    entries = list_entries(root)
    present = [entry for entry in entries if entry.path.name in wanted]
    others = [entry for entry in entries if entry.path.name not in wanted]
    needed = sum(wanted.values())
    spare = limit - needed - sum(entry.size_bytes for entry in others)
    free = shutil.disk_usage(_existing(root)).free - FREE_DISK_MARGIN
    free -= needed - sum(entry.size_bytes for entry in present)
    removed: list[Entry] = []
    while min(spare, free) < 0:
        if not others:
            return False
        removed.append(others.pop())
        spare += removed[-1].size_bytes
        free += removed[-1].size_bytes
    for entry in removed:
        remove(entry)
    return True


def _parse(recorded: dict[int, str], lines: bytes) -> None:
    """Add the journal's lines; what is no such line is passed over."""
    for line in lines.decode("ascii", "replace").splitlines():
        number, _, digest = line.partition(" ")
        if number.isdigit() and digest == _INVALID:
            recorded.pop(int(number), None)
        elif number.isdigit() and len(digest) == 64:
            recorded[int(number)] = digest


def _write_all(descriptor: int, content: bytes, offset: int) -> None:
    view = memoryview(content)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _existing(path: Path) -> Path:
    return next(parent for parent in (path, *path.parents) if parent.exists())


def _entry(key_file: Path) -> Entry | None:
    try:
        key = json.loads(key_file.read_bytes())
        stat = (key_file.parent / "features.bin").stat()
        blocks = -(-key["count"] // key["block_size"])
        done: dict[int, str] = {}
        _parse(done, (key_file.parent / "blocks.txt").read_bytes())
        return Entry(
            path=key_file.parent,
            ingredients=key["ingredients"],
            count=key["count"],
            dtype=key["dtype"],
            size_bytes=stat.st_blocks * 512,  # a file that is not yet full has holes
            progress=len(done) / max(blocks, 1),
            last_used=key_file.stat().st_mtime,
        )
    except (OSError, ValueError, KeyError):  # half removed, or not ours
        return None
