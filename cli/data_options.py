"""Options of every command that reads a data set: how it names what it holds."""

from __future__ import annotations

from typing import Annotated, Any, get_args

import typer

from models.errors import UserError
from training.data.listing import SplitChoice

LabelColumn = Annotated[
    str | None,
    typer.Option(help="Of labels, in a CSV file or a Hugging Face data set.  [default: label]"),
]
ImageColumn = Annotated[
    str | None,
    typer.Option(help="Of images.  [default: path of a CSV file, image of a data set]"),
]
SplitColumn = Annotated[
    str | None,
    typer.Option(help="Of splits.  [default: the one called split, or that holds their names]"),
]
SplitNames = Annotated[
    list[str] | None,
    typer.Option(
        "--split-name",
        metavar="NAME=SPLIT",
        help="What a split's own name means: train, val, test or ignore; NAME=class: a folder so "
        "called is a class. May be repeated.",
    ),
]
AllowConflictingLabels = Annotated[
    bool,
    typer.Option(
        "--allow-conflicting-labels", help="Take images that have two labels in one table."
    ),
]

_CHOICES = get_args(SplitChoice)


def split_names(given: list[str] | None) -> dict[str, Any] | None:
    """What `--split-name NAME=SPLIT`, given any number of times, says; None: it wasn't given.

    Raises:
        UserError: one is something else.
    """
    if not given:
        return None
    names = {}
    for text in given:
        name, equals, choice = text.rpartition("=")
        if not equals or not name or choice not in _CHOICES:
            raise UserError(
                f"--split-name is '{text}', it must be NAME=SPLIT with one of {', '.join(_CHOICES)}"
            )
        names[name] = choice
    return names


def column_values(
    label_column: str | None,
    image_column: str | None,
    split_column: str | None,
    names: list[str] | None,
) -> dict[str, Any]:
    """The options as fields of TrainConfig; None where one wasn't given."""
    return {
        "label_column": label_column,
        "image_column": image_column,
        "split_column": split_column,
        "split_names": split_names(names),
    }
