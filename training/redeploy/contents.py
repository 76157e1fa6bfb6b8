"""Tables that name images by their content: CSV files with a column `sha256`."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

from models.files import staged_file
from training.data.listing import DataError

COLUMN = "sha256"
_DIGITS = 64


def read_contents(table: Path) -> set[str]:
    """The SHA-256 of its images, in hexadecimal digits.

    Raises:
        DataError: it can't be read, or has no such column, or something else stands in it.
    """
    try:
        with table.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as lines:
            reader = csv.DictReader(lines)
            rows = [row.get(COLUMN) for row in reader]
            names = reader.fieldnames or ()
    except (OSError, csv.Error) as error:
        raise DataError(f"{table} can't be read as CSV: {error}") from None
    if COLUMN not in names:
        raise DataError(
            f"{table} has the columns {', '.join(names) or 'none'}; it needs one called {COLUMN}, "
            "as the tables of suspects of 'vgg19 redeploy' have"
        )
    found = {(row or "").strip().lower() for row in rows} - {""}
    wrong = [one for one in found if len(one) != _DIGITS or set(one) - set("0123456789abcdef")]
    if wrong:
        raise DataError(f"{table}: {COLUMN} is '{wrong[0]}', it must be {_DIGITS} digits of 0-9a-f")
    return found


def write_contents(
    rows: Iterable[Mapping[str, object]], columns: tuple[str, ...], path: Path
) -> None:
    """Write such a table in one step."""
    # Names of files may hold any bytes.
    with (
        staged_file(path) as staging,
        staging.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
