"""What a source of images says, before a file is opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from models.errors import UserError

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
_SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}


class DataError(UserError):
    """The data doesn't hold what training needs."""


@dataclass(frozen=True)
class ImageFile:
    """An image that was named, unchecked. `split` and `group` are None where nothing was said."""

    path: Path
    label: str
    split: Split | None = None
    group: str | None = None
