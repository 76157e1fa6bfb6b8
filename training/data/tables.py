"""Images that a CSV file names, with their labels."""

from __future__ import annotations

import csv
import os
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from models.text import as_label
from training.data.listing import Columns, DataError, ImageFile, Listing, Split, SplitChoice
from training.data.missing_labels import is_missing
from training.data.split_names import find_split_column, split_of, unknown_split

Row = dict[str, Any]


@dataclass(frozen=True)
class _Named:
    """Which column holds what."""

    image: str
    label: str
    split: str | None
    group: str | None


def from_csv(file: Path, columns: Columns) -> Listing:
    """A path and a label in each row, perhaps a split and a group; paths are relative to the file.

    Raises:
        DataError: it can't be read, a column isn't there, a row has other cells than the header,
            or a split has a name that isn't known.
    """
    header, rows = _read(file)
    named = _columns(file, columns, header, [row for _, row in rows])
    listing = Listing(is_table=True)
    if named.split and named.split != "split":
        listing.notes.append(f"{file}: column '{named.split}' says the splits")
    meaning = cache(lambda own: split_of(own, columns.split_names))  # few names, many rows
    for line, row in rows:
        _add(listing, file, line, row, named, meaning)
    return listing


def _read(file: Path) -> tuple[list[str], list[tuple[int, Row]]]:
    """The header, and the rows with the lines on which they end."""
    try:
        # A file's name may hold any bytes, and a redeploy job lists it as it is.
        with file.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as lines:
            reader = csv.DictReader(lines)
            header = list(reader.fieldnames or ())
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file} can't be read as CSV: {error}") from None
    for line, row in rows:
        extra = [cell for cell in row.pop(None, None) or () if cell.strip()]
        if extra:
            raise DataError(
                f"{file}, line {line}: more cells than the header's {len(header)} ('{extra[0]}'); "
                "put a cell that holds a comma into quotes"
            )
    return header, rows


def _columns(file: Path, columns: Columns, header: Sequence[str], rows: Sequence[Row]) -> _Named:
    image = find_column(file, columns.image or "path", header, "image_column")
    label = find_column(file, columns.label, header, "label_column")
    if not rows:
        raise DataError(f"{file} has no rows")
    group = _same_name("group", header)

    def values(column: str) -> Iterable[str]:
        return {(row[column] or "").strip() for row in rows} - {""}

    if columns.split is not None:
        split: str | None = find_column(file, columns.split, header, "split_column")
    else:
        others = [column for column in header if column not in (image, label, group)]
        split = find_split_column(others, values, columns.split_names)
    has_splits = split is not None and bool(set(values(split)))
    return _Named(image, label, split if has_splits else None, group)


def find_column(data: Path, wanted: str, header: Sequence[str], option: str) -> str:
    """The column of this name; the case doesn't matter where that leaves one.

    Raises:
        DataError: there is none, or more than one.
    """
    found = _same_name(wanted, header)
    if found is None:
        raise DataError(
            f"{data} has no column '{wanted}' (it has {', '.join(header) or 'none'}); name it with "
            f"{option} in the config file (--{option.replace('_', '-')})"
        )
    if header.count(found) > 1:
        raise DataError(f"{data} has {header.count(found)} columns '{found}'; rename one")
    return found


def _same_name(wanted: str, header: Sequence[str]) -> str | None:
    if wanted in header:
        return wanted
    alike = [name for name in header if name.strip().casefold() == wanted.strip().casefold()]
    return alike[0] if len(alike) == 1 else None


def _add(
    listing: Listing,
    file: Path,
    line: int,
    row: Row,
    named: _Named,
    meaning: Callable[[str], SplitChoice | None],
) -> None:
    name, label = row[named.image] or "", (row[named.label] or "").strip()
    # A space after the comma. By os.path, since pathlib raises for a name that no file can have.
    if name != name.strip() and not os.path.exists(file.parent / name):  # noqa: PTH110
        name = name.strip()
    split: Split | None = None
    if named.split is not None:
        own = (row[named.split] or "").strip()
        choice = meaning(own)
        if choice is None or choice == "class":
            raise unknown_split(own, f"{file}, line {line}:")
        if choice == "ignore":
            listing.skip(file.parent / name, None, f"in split '{own}', which is ignored")
            return
        split = choice
    if not name:
        listing.skip(file, None, f"line {line} names no image")
    elif not label.isascii() and as_label(label) != unicodedata.normalize("NFC", label):
        raise DataError(f"{file}, line {line}: the label is not UTF-8; save the table as UTF-8")
    elif is_missing(label):
        listing.skip(file.parent / name, None, f"no label ({label!r})")
    else:
        group = (row[named.group] or "").strip() if named.group else ""
        listing.files.append(ImageFile(file.parent / name, label, split, group or None))
