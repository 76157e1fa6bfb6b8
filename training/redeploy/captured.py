"""Images that the service captured: those that have a label, for training; all, to be labelled.

A location (`VGG19_CAPTURE_URL`) holds three files an image, with one stem: `STEM.img` as it was
sent, `STEM.json` with the prediction, and `STEM.label.json` once `POST /feedback` told the right
label. `labels.csv`, with the columns `stem` and `label` (`vgg19 label`), counts as well, and wins.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.errors import UserError
from models.locations import list_files, open_location, reason, without_credentials
from models.paths import user_cache
from training.data.sources import ImageFile

LABELS_FILE = "labels.csv"


class CaptureError(UserError):
    """The location can't be read."""


@dataclass(frozen=True)
class CapturedImage:
    """One image, on this machine. `label` is None until somebody has told."""

    stem: str
    path: Path
    record: dict[str, Any]
    label: str | None


def captured_images(url: str) -> list[CapturedImage]:
    """All images of a location, the oldest first; remote ones are fetched once.

    Args:
        url: a directory, or a URL that fsspec knows, such as s3://bucket/captured.

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
            labels = read_labels(files.cat_file(table).decode("utf-8-sig"), table)
        return [
            _captured(files, root, name.removesuffix(".img"), names, labels)
            for name in names
            if name.endswith(".img") and name.removesuffix(".img") + ".json" in names
        ]
    except CaptureError:
        raise
    except Exception as error:  # each of fsspec's file systems has exceptions of its own
        raise CaptureError(f"{without_credentials(url)} can't be read: {reason(error)}") from None


def _can_be(files: Any, root: str) -> bool:
    """Whether an empty place is one where nothing was captured yet, and no mistyped name. In an
    object store only the bucket tells."""
    bucket = root.partition("/")[0]
    return bool(files.exists(root) or (bucket and files.exists(bucket)))


def labelled_images(url: str) -> list[ImageFile]:
    """The labelled ones, as a data source."""
    return [ImageFile(one.path, one.label) for one in captured_images(url) if one.label]


def _captured(
    files: Any, root: str, stem: str, names: Collection[str], labels: dict[str, str]
) -> CapturedImage:
    record: dict[str, Any] = json.loads(files.cat_file(f"{root}/{stem}.json"))
    label = labels.get(stem)
    if label is None and f"{stem}.label.json" in names:
        label = str(json.loads(files.cat_file(f"{root}/{stem}.label.json"))["label"])
    return CapturedImage(stem, _local(files, f"{root}/{stem}.img"), record, label)


def read_labels(text: str, table: str) -> dict[str, str]:
    """The rows of a table that have a label.

    Args:
        table: its name, for people.

    Raises:
        CaptureError: it has other columns.
    """
    rows = csv.DictReader(io.StringIO(text))
    if not {"stem", "label"} <= set(rows.fieldnames or ()):
        raise CaptureError(f"{table} has no columns 'stem' and 'label'")
    return {row["stem"]: row["label"].strip() for row in rows if (row["label"] or "").strip()}


def _local(files: Any, path: str) -> Path:
    if "file" in files.protocol:
        return Path(path)
    local = user_cache() / "captured" / path.rpartition("/")[2]
    if not local.exists():
        local.parent.mkdir(parents=True, exist_ok=True)
        staging = local.with_suffix(".part")
        files.get_file(path, str(staging))
        staging.replace(local)
    return local
