"""Names of splits: one rule for folders, CSV files and Hugging Face data sets.

A name that isn't known is never taken for training: a split that was meant for judging would be
trained on, and nobody would see it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence

from training.data.listing import SPLITS, DataError, Split, SplitChoice

# docs/training.md lists them.
KNOWN_NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validate", "validation", "dev", "devel", "development"),
    "test": ("test", "tests", "testing", "holdout", "heldout", "eval", "evaluate", "evaluation"),
}
_SPLITS_BY_NAME: dict[str, Split] = {
    name: split for split, names in KNOWN_NAMES.items() for name in names
}
# Words that say nothing: training_set, test-images, val2017 (numbers are left out as well).
_FILLERS = frozenset(
    ("set", "data", "dataset", "image", "images", "img", "imgs", "split", "samples", "folder")
)
_JOINED_FILLER = re.compile(r"(dataset|data|set|images|split)$")
# Columns of these names hold a split, if any of their values is one.
_COLUMN_NAMES = frozenset(("split", "splits", "subset", "partition", "set", "fold", "usage"))


def split_of(name: str, given: Mapping[str, SplitChoice]) -> SplitChoice | None:
    """Which split a name means, in any case and spelling; None if it isn't known.

    Args:
        given: what the user says that names mean; wins.
    """
    for own, choice in given.items():
        if own.strip().casefold() == name.strip().casefold():
            return choice
    text = unicodedata.normalize("NFKC", name).casefold()
    word = "".join(part for part in re.findall(r"[^\W\d_]+", text) if part not in _FILLERS)
    return _SPLITS_BY_NAME.get(word) or _SPLITS_BY_NAME.get(_JOINED_FILLER.sub("", word))


def strictest(first: Split | None, second: Split | None) -> Split | None:
    """Of two splits that are said of one image the one that is kept from training most: test,
    then val, then train, then none."""
    named = [split for split in (first, second) if split is not None]
    return max(named, key=SPLITS.index, default=None)


def unknown_split(name: str, where: str) -> DataError:
    known = ", ".join(SPLITS)
    return DataError(
        f"{where} has a split '{name}', which is not a known name ({known} and the like); say what "
        f"it is with split_names, such as --split-name '{name}=test' (or =train, =val, =ignore)"
    )


def find_split_column(
    columns: Sequence[str],
    values: Callable[[str], Iterable[str]],
    given: Mapping[str, SplitChoice],
) -> str | None:
    """The column that says an image's split, if there is one.

    It is called `split` in any case, or whatever it is called its values are names of splits, one
    of them of a split that judges.

    Args:
        columns: those that hold neither image nor label nor group.
        values: the distinct values of a column that aren't empty.

    Raises:
        DataError: there are two.
    """
    by_name = [column for column in columns if column.strip().casefold() in ("split", "splits")]
    found = by_name or [
        column for column in columns if _holds_splits(column, values(column), given)
    ]
    if len(found) > 1:
        raise DataError(
            f"the columns {' and '.join(found)} both name splits; choose one with split_column "
            "(--split-column)"
        )
    return found[0] if found else None


def _holds_splits(column: str, values: Iterable[str], given: Mapping[str, SplitChoice]) -> bool:
    meant = {split_of(value, given) for value in values}
    if column.strip().casefold() in _COLUMN_NAMES:
        return bool(meant - {None})
    return None not in meant and bool(meant & {"val", "test"})
