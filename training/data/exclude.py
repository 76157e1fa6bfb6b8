"""Images that a run leaves out by name, such as those with suspect labels."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path

from training.data.listing import DataError, ImageFile, SkippedFile

_SHOWN = 3


def leave_out(
    files: Sequence[ImageFile], table: Path, root: Path
) -> tuple[list[ImageFile], list[SkippedFile]]:
    """Without the files that the first column of a CSV file names, below its header.

    Args:
        root: what names are relative to.

    Returns:
        the others, and those left out.

    Raises:
        DataError: the table can't be read, or a name in it is none of the files'.
    """
    wanted = {_normal(root / name): name for name in _names(table)}
    kept, excluded = [], []
    for file in files:
        if _normal(file.path) in wanted:
            excluded.append(SkippedFile(file.path, file.label, f"excluded by {table}"))
        else:
            kept.append(file)
    unknown = [*wanted.keys() - {_normal(file.path) for file in excluded}]
    if unknown:
        names = sorted(wanted[path] for path in unknown)
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        raise DataError(
            f"{table} excludes {', '.join(names[:_SHOWN])}{more}, which {root} doesn't hold; names "
            "are relative to it; correct them, or remove them from the table"
        )
    return kept, excluded


def _normal(path: Path) -> str:
    """By which two spellings of a path are known as one; links are not followed."""
    return os.path.normpath(path.absolute())


def _names(table: Path) -> list[str]:
    try:
        # A file's name may hold any bytes.
        with table.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as lines:
            rows = [row for row in csv.reader(lines) if row and row[0].strip()]
    except (OSError, csv.Error) as error:
        raise DataError(f"exclude {table} can't be read as CSV: {error}") from None
    return [row[0] for row in rows[1:]]
