"""What a source of images says, before an image is opened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from models.errors import UserError
from models.text import as_label

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
SplitChoice = Literal["train", "val", "test", "ignore", "class"]
# How images without a split get one, see `training.data.splits`.
SplitBy = Literal["hash", "exact"]


class DataError(UserError):
    """The data doesn't hold what training needs."""


@dataclass(frozen=True)
class Columns:
    """How a source names what it holds.

    Args:
        label, image, split: columns of a CSV file or a Hugging Face data set. Without `image` it is
            `path` of a CSV file and `image` of a data set; without `split` it is found, if there
            is one (see `training.data.split_names`).
        split_names: what the source's own names of splits mean, where they aren't known ones.
    """

    label: str = "label"
    image: str | None = None
    split: str | None = None
    split_names: Mapping[str, SplitChoice] = field(default_factory=dict)

    def with_given(
        self,
        *,
        label_column: str | None = None,
        image_column: str | None = None,
        split_column: str | None = None,
        split_names: Mapping[str, SplitChoice] | None = None,
    ) -> Columns:
        """These, with what a user has given (None: nothing) in the place of some."""
        return Columns(
            label_column or self.label,
            image_column or self.image,
            split_column or self.split,
            {**self.split_names, **(split_names or {})},
        )


@dataclass(frozen=True)
class ImageFile:
    """An image that was named, unchecked. `split` and `group` are None where nothing was said.

    `label` becomes text that is the same however its source spelt it, see `models.text.as_label`.
    """

    path: Path
    label: str
    split: Split | None = None
    group: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", as_label(self.label))


@dataclass(frozen=True)
class SkippedFile:
    """What is left out, and why. `label` is None where there is none."""

    path: Path
    label: str | None
    reason: str


@dataclass
class Listing:
    """The images of a source in a fixed order, and all that is not among them.

    Args:
        side_files: how many of each kind lie beside the images and are none (`.xml`, `Thumbs.db`).
        notes: what was decided about the source, for people.
        is_table: a row for each image, as opposed to folders.
    """

    files: list[ImageFile] = field(default_factory=list)
    skipped: list[SkippedFile] = field(default_factory=list)
    side_files: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    is_table: bool = False

    def skip(self, path: Path, label: str | None, reason: str) -> None:
        self.skipped.append(SkippedFile(path, label, reason))
