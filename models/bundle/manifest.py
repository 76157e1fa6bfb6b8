"""`manifest.json`: what the files of a bundle should hold, and whether they do."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from models.errors import BundleError

MANIFEST_FILE = "manifest.json"
_PIECE_BYTES = 4_000_000  # of a file, hashed at once: some milliseconds

# What the store puts beside a bundle's files; BentoML reads the second of every version it lists.
_NOT_ITS_OWN = (MANIFEST_FILE, "model.yaml")


class Provenance(BaseModel):
    """Where a model came from: enough to train it again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    created_at: str
    training_config: dict[str, Any]
    data_fingerprint: str
    seed: int
    git_commit: str | None
    packages: dict[str, str]
    hardware: dict[str, str] = {}
    weights_sha256: str | None = None
    initial_weights_sha256: str | None = None
    """Of the file that `--weights` named; None for `none`: seed, packages and images decide."""
    decoding: dict[str, str] = {}
    """What decides which pixels a file becomes: our rule, the resampler, Pillow's codecs."""


class Manifest(BaseModel):
    """`manifest.json`: the SHA-256 of every other file, and the provenance."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = 1
    files: dict[str, str]
    provenance: Provenance


def read_manifest(path: Path) -> Manifest:
    """Read the manifest of the bundle at `path` without checking the files against it.

    Raises:
        BundleError: there is none, or it isn't one.
    """
    return parse_manifest(path, manifest_content(path))


def manifest_content(path: Path) -> bytes:
    """What `parse_manifest` reads, and a signature signs.

    Raises:
        BundleError: there is no manifest in the bundle at `path`, or a link.
    """
    _check_no_link(path / MANIFEST_FILE)
    try:
        return (path / MANIFEST_FILE).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        found = f"is not a bundle: it has no {MANIFEST_FILE}" if path.exists() else "does not exist"
        raise BundleError(f"{path} {found}; make a bundle with 'vgg19 export RUN'") from None


def parse_manifest(path: Path, content: bytes) -> Manifest:
    """Raises BundleError if the content isn't a manifest's."""
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        raise BundleError(
            f"{path / MANIFEST_FILE} is damaged: {error.errors()[0]['msg']}"
        ) from None


def stat_key(file: Path) -> tuple[int, ...]:
    """Another one as soon as the file changes."""
    stat = file.stat()
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def check_content(file: Path, expected: str, between: Callable[[], None] = lambda: None) -> None:
    """Raise BundleError unless it is what has this SHA-256, in hexadecimal digits.

    Args:
        between: see `sha256`.
    """
    actual = sha256(file, between)
    if actual != expected:
        raise BundleError(
            f"{file} does not match its manifest (SHA-256 is {actual[:12]}, should be "
            f"{expected[:12]}); export or register the model again"
        )


def check_plain_file(bundle: Path, name: str) -> None:
    """Raise BundleError unless `name` is a file in the bundle itself, and no link out of it."""
    if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise BundleError(
            f"{bundle / MANIFEST_FILE} lists '{name[:100]}', which is not a plain file name; the "
            "bundle was not made by 'vgg19 export'"
        )
    if name in _NOT_ITS_OWN:
        raise BundleError(
            f"{bundle / MANIFEST_FILE} lists '{name}', which is not a file of a bundle; it was not "
            "made by 'vgg19 export'"
        )
    file = bundle / name
    _check_no_link(file)
    if not file.is_file():
        raise BundleError(f"{file} is missing; export or register the model again")


def _check_no_link(file: Path) -> None:
    if file.is_symlink():
        raise BundleError(f"{file} is a link; a bundle holds its files itself, copy it there")


def sha256(path: Path, between: Callable[[], None] = lambda: None) -> str:
    """Of a file, in hexadecimal digits.

    Args:
        between: called after each 4 MB, which take some milliseconds; it may wait.
    """
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        piece = memoryview(bytearray(min(max(size, 1), _PIECE_BYTES)))
        while count := file.readinto(piece):
            digest.update(piece[:count])
            between()
    return digest.hexdigest()
