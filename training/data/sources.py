"""Where labelled images come from: a folder, a CSV file, or a Hugging Face data set."""

from __future__ import annotations

from pathlib import Path

from training.data.folders import from_folder
from training.data.hugging_face import (
    HF_PREFIX,
    from_hugging_face,
    is_saved_dataset,
)
from training.data.listing import SPLITS, Columns, DataError, ImageFile, Listing, Split
from training.data.tables import from_csv

__all__ = [
    "SPLITS", "Columns", "DataError", "ImageFile", "Listing", "Split", "data_root", "find_images",
]  # fmt: skip


def find_images(data: Path, columns: Columns | None = None) -> Listing:
    """The labelled images of `data`, in a fixed order, and what is not among them.

    Args:
        data: a folder `class/file`, `{train,val,test}/class/file` or
            `class/{train,val,test}/file`; a `.csv` file with a path and a label and perhaps a
            split and a group in each row; a folder written by `datasets.save_to_disk`; or
            `hf:NAME`, a data set of the Hugging Face hub, at its newest or with `hf:NAME@REVISION`
            at that commit, tag or branch.

    Raises:
        DataError: there is no such thing, it isn't as described, it has a split of a name that
            isn't known, or none of its images has a label.
    """
    listing = _find(data, columns or Columns())
    if not listing.files and all(file.label is None for file in listing.skipped):
        why = "".join(
            f"; {len(listing.skipped)} are left out, the first: {first.path}: {first.reason}"
            for first in listing.skipped[:1]
        )
        raise DataError(f"{data} holds no labelled image{why}")
    return listing


def _find(data: Path, columns: Columns) -> Listing:
    if str(data).startswith(HF_PREFIX) or is_saved_dataset(data):
        return from_hugging_face(data, columns)
    if not data.exists():
        raise DataError(
            f"data {data} does not exist; it is a directory with one folder per class, a .csv "
            "file, or hf:NAME"
        )
    if data.suffix.lower() == ".csv" and not data.is_dir():
        return from_csv(data, columns)
    return from_folder(data, columns.split_names)


def data_root(data: Path) -> Path:
    """The directory that paths are told relative to."""
    return data.parent if data.suffix.lower() == ".csv" else data
