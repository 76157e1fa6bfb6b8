"""Images that the service captured, and their labels.

A location (`VGG19_CAPTURE_URL`) holds three files an image, with one stem: `STEM.img` as it was
sent, `STEM.json` with the prediction, and `STEM.label.json` once `POST /feedback` told the right
label. `labels.csv`, with the columns `stem` and `label` (`vgg19 label`), counts as well, and wins.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import Any

from models.errors import UserError
from models.files import staged_file
from models.locations import list_files, open_location, reason, without_credentials
from models.paths import user_cache
from models.text import as_label

LABELS_FILE = "labels.csv"

Warn = Callable[[str], None]


class CaptureError(UserError):
    """The location can't be read."""


@dataclass(frozen=True)
class CapturedImage:
    """One image, on this machine. `label` is None until somebody has told."""

    stem: str
    path: Path
    record: dict[str, Any]
    label: str | None


def captured_images(
    url: str,
    warn: Warn = lambda words: None,
    *,
    known: Mapping[str, CapturedImage] = MappingProxyType({}),
    fetched_to: Path | None = None,
) -> list[CapturedImage]:
    """All images of a location, the oldest first; remote ones are fetched once.

    One whose record or label is damaged is left out.

    Args:
        url: a directory, or a URL that fsspec knows, such as s3://bucket/captured.
        warn: called for each damaged file, with its name.
        known: by their stems, images that were read before: of these only the labels are read.
        fetched_to: directory of what is fetched; None: the user's cache.

    Raises:
        CaptureError: it can't be read.
    """
    try:
        files, root = open_location(url)
        names = dict.fromkeys(name for name, _ in list_files(files, root))  # in their order
        if not names and not _can_be(files, root):
            raise CaptureError(
                f"there is nothing at {without_credentials(url)}; does the service capture there?"
            )
        labels = {}
        if LABELS_FILE in names:
            table = f"{root}/{LABELS_FILE}"
            labels = read_labels(files.cat_file(table), table)
        place = _Place(files, root, labels, warn, fetched_to)
        stems = [name.removesuffix(".img") for name in names if name.endswith(".img")]
        found = [
            place.read(stem, f"{stem}.label.json" in names, known.get(stem))
            for stem in stems
            if f"{stem}.json" in names
        ]
        return [image for image in found if image is not None]
    except CaptureError:
        raise
    except Exception as error:  # each of fsspec's file systems has exceptions of its own
        raise CaptureError(f"{without_credentials(url)} can't be read: {reason(error)}") from None


def _can_be(files: Any, root: str) -> bool:
    """Whether an empty place is one where nothing was captured yet, and no mistyped name. In an
    object store only the bucket tells."""
    bucket = root.partition("/")[0]
    return bool(files.exists(root) or (bucket and files.exists(bucket)))


@dataclass(frozen=True)
class _Place:
    """A location, and the labels of its table."""

    files: Any
    root: str
    labels: Mapping[str, str]
    warn: Warn
    fetched_to: Path | None

    def read(self, stem: str, has_label: bool, known: CapturedImage | None) -> CapturedImage | None:
        """None where a file that tells of it is damaged. One upload must not stop every job to
        come."""
        label = self.labels.get(stem)
        name = f"{self.root}/{stem}.json"
        try:
            record = json.loads(self.files.cat_file(name)) if known is None else known.record
            _check_record(record)
            if label is None and has_label:
                name = f"{self.root}/{stem}.label.json"
                label = as_label(str(json.loads(self.files.cat_file(name))["label"]))
        except (ValueError, TypeError, LookupError):
            self.warn(f"{name} is damaged, so its image is skipped; remove it, or write it again")
            return None
        if known is not None:
            return replace(known, label=label)
        return CapturedImage(stem, self._local(f"{self.root}/{stem}.img"), record, label)

    def _local(self, path: str) -> Path:
        if "file" in self.files.protocol:
            return Path(path)
        folder = self.fetched_to or user_cache() / "captured"
        local = folder / path.rpartition("/")[2]
        if not local.exists():
            local.parent.mkdir(parents=True, exist_ok=True)
            with staged_file(local) as staging:
                self.files.get_file(path, str(staging))
        return local


def _check_record(record: Any) -> None:
    """Raise what indexing and converting raise, unless there are a label and its probability."""
    best = record["predictions"][0]
    if not isinstance(best["label"], str):
        raise TypeError
    float(best["probability"])


def read_labels(content: bytes, table: str) -> dict[str, str]:
    """The rows of a table that have a label.

    Args:
        content: CSV in UTF-8. Its column `stem` names the images, or `file`, as in the suspect
            labels of `vgg19 probe`: a captured image keeps its stem in every folder.
        table: its name, for people.

    Raises:
        CaptureError: it has other columns, or another encoding.
    """
    try:
        text = content.decode("utf-8-sig")
        rows = csv.DictReader(io.StringIO(text, newline=""))
        columns = set(rows.fieldnames or ())
        if "label" not in columns or columns.isdisjoint({"stem", "file"}):
            raise CaptureError(f"{table} has no columns 'stem' (or 'file') and 'label'")
        by_stem = "stem" in columns
        labels = {
            row["stem"] if by_stem else PurePath(row["file"] or "").stem: as_label(
                (row["label"] or "").strip()
            )
            for row in rows
        }
    except (UnicodeDecodeError, csv.Error):
        raise CaptureError(f"{table} is not a CSV file in UTF-8; save it as one") from None
    return {stem: label for stem, label in labels.items() if label}


def put_labels(url: str, table: Path) -> int:
    """Lay a filled-in table beside the captured images; returns how many have a label.

    Labels that are there already stay, unless the table says otherwise.

    Raises:
        CaptureError: the table has other columns, or the location can't be written.
    """
    return lay_labels(url, read_labels(table.read_bytes(), str(table)))


def lay_labels(url: str, labels: Mapping[str, str]) -> int:
    """As `put_labels`, of stems with their labels."""
    try:
        files, root = open_location(url)
        target = f"{root}/{LABELS_FILE}"
        if files.exists(target):
            labels = read_labels(files.cat_file(target), target) | dict(labels)
        lines = ["stem,label", *(f"{stem},{_quoted(label)}" for stem, label in labels.items())]
        files.pipe_file(target, ("\n".join(lines) + "\n").encode())
    except CaptureError:
        raise
    except Exception as error:  # each of fsspec's file systems has exceptions of its own
        raise CaptureError(
            f"{without_credentials(url)} can't be written: {reason(error)}"
        ) from None
    return len(labels)


def _quoted(label: str) -> str:
    return '"' + label.replace('"', '""') + '"'
