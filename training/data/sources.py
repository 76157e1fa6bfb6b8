"""Where labelled images come from: a folder, a CSV file, or a Hugging Face data set."""

from __future__ import annotations

from pathlib import Path

from training.data.folders import from_folder
from training.data.hugging_face import (
    HF_PREFIX,
    cache_directory,
    from_hugging_face,
    is_saved_dataset,
)
from training.data.listing import SPLITS, DataError, ImageFile, Split
from training.data.tables import from_csv

__all__ = [
    "SPLITS",
    "DataError",
    "ImageFile",
    "Split",
    "cache_directory",
    "data_root",
    "find_images",
]


def find_images(
    data: Path, *, label_column: str = "label", image_column: str | None = None
) -> list[ImageFile]:
    """The labelled images of `data`, in a fixed order.

    Args:
        data: a folder `class/file` or `{train,val,test}/class/file`; a `.csv` file with a path
            and a label and perhaps a split and a group in each row; a folder written by
            `datasets.save_to_disk`; or `hf:NAME`, a data set of the Hugging Face hub, at its
            newest or with `hf:NAME@REVISION` at that commit, tag or branch.

    Raises:
        DataError: there is no such thing, or it isn't as described.
    """
    if str(data).startswith(HF_PREFIX) or is_saved_dataset(data):
        return from_hugging_face(data, label_column, image_column or "image")
    if not data.exists():
        raise DataError(
            f"data {data} does not exist; it is a directory with one folder per class, a .csv "
            "file, or hf:NAME"
        )
    if data.suffix.lower() == ".csv":
        return from_csv(data, label_column, image_column or "path")
    return from_folder(data)


def data_root(data: Path) -> Path:
    """The directory that paths are told relative to."""
    return data.parent if data.suffix.lower() == ".csv" else data
