"""Images that a CSV file names, with their labels."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from training.data.listing import _SPLIT_NAMES, DataError, ImageFile


def from_csv(file: Path, label_column: str, image_column: str) -> list[ImageFile]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines)
            columns = reader.fieldnames or []
            for column in (image_column, label_column):
                if column not in columns:
                    raise DataError(
                        f"{file} has no column '{column}' (it has {', '.join(columns) or 'none'}); "
                        "name it with image_column or label_column in the config file"
                    )
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file} can't be read as CSV: {error}") from None
    if not rows:
        raise DataError(f"{file} has no rows")
    has_splits = any((row.get("split") or "").strip() for row in rows)
    return [
        _csv_image(file, number, row, image_column, label_column, has_splits)
        for number, row in enumerate(rows, start=2)
    ]


def _csv_image(
    file: Path,
    line: int,
    row: dict[str, Any],
    image_column: str,
    label_column: str,
    has_splits: bool,
) -> ImageFile:
    name, label = (row[image_column] or "").strip(), (row[label_column] or "").strip()
    if not name or not label:
        raise DataError(f"{file}, line {line}: {image_column} or {label_column} is empty")
    split = None
    if has_splits:
        word = (row["split"] or "").strip().lower()
        if word not in _SPLIT_NAMES:
            raise DataError(f"{file}, line {line}: split is '{word}', it is train, val or test")
        split = _SPLIT_NAMES[word]
    return ImageFile(file.parent / name, label, split, (row.get("group") or "").strip() or None)
