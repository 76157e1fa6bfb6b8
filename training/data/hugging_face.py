"""Images of a Hugging Face data set, from the hub or from disk."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from models.extras import install_command
from models.paths import user_cache
from training.data.listing import Columns, DataError, ImageFile, Listing, Split, SplitChoice
from training.data.missing_labels import is_missing
from training.data.split_names import find_split_column, split_of, strictest, unknown_split
from training.data.tables import find_column

HF_PREFIX = "hf:"


def is_saved_dataset(data: Path) -> bool:
    """Whether `datasets.save_to_disk` wrote this directory."""
    return (data / "dataset_dict.json").is_file() or (data / "dataset_info.json").is_file()


def from_hugging_face(data: Path, columns: Columns) -> Listing:
    """The images are written to files once, below the cache directory, named by content.

    Raises:
        DataError: it can't be loaded, a column isn't there or holds something else, or a split has
            a name that isn't known.
    """
    try:
        import datasets
    except ImportError:
        raise DataError(
            f"{data} is a Hugging Face data set, which needs the package datasets; install it with "
            f"{install_command('hf')}"
        ) from None
    loaded = _load_dataset(datasets, data)
    named: list[tuple[str, Any, SplitChoice | None]]
    if isinstance(loaded, datasets.DatasetDict):
        named = [
            (str(name), split, _meaning(str(name), data, columns)) for name, split in loaded.items()
        ]
    else:
        named = [(str(data), loaded, _recorded_split(loaded, columns))]
    cache = user_cache() / "hf"
    cache.mkdir(parents=True, exist_ok=True)
    listing = Listing(is_table=True)
    for name, split, choice in named:
        if choice == "ignore":
            reason = f"split '{name}' is ignored ({split.num_rows} rows)"
            listing.skip(data, None, reason)
        else:
            _Reader(datasets, data, split, columns, cache, listing).read(name, choice)
    return listing


def _meaning(name: str, data: Path, columns: Columns) -> SplitChoice | None:
    choice = split_of(name, columns.split_names)
    if choice is None or choice == "class":
        raise unknown_split(name, str(data))
    return choice


def _recorded_split(dataset: Any, columns: Columns) -> Split | None:
    """Of a data set that was saved alone: what it was cut from, if that was to judge by."""
    choice = split_of(str(dataset.split or ""), columns.split_names)
    return choice if choice == "val" or choice == "test" else None


class _Reader:
    """Reads one split into a listing."""

    def __init__(
        self, datasets: Any, data: Path, rows: Any, columns: Columns, cache: Path, listing: Listing
    ) -> None:
        names = rows.column_names
        self._image = find_column(data, columns.image or "image", names, "image_column")
        self._label = find_column(data, columns.label, names, "label_column")
        self._data, self._columns, self._cache, self._listing = data, columns, cache, listing
        self._datasets, self._rows = datasets, rows
        self._feature = rows.features[self._label]
        self._split = self._split_column()
        self._group = next((name for name in names if name.casefold() == "group"), None)

    def read(self, split_name: str, split: Any) -> None:
        encoded = self._encoded()
        for number, row in enumerate(encoded):
            where = Path(f"{split_name}, row {number}")
            own = self._own_split(row, where)
            label = self._label_of(row[self._label], where)
            if own == "ignore":
                self._listing.skip(where, None, "in a split that is ignored")
            elif label is None:
                self._listing.skip(where, None, f"no label ({row[self._label]!r})")
            else:
                self._add(row, label, strictest(split, own), where)

    def _add(self, row: dict[str, Any], label: str, split: Split | None, where: Path) -> None:
        image = row[self._image]
        if image is None or (image["bytes"] is None and not image["path"]):
            self._listing.skip(where, label, "no image")
            return
        try:
            path = _write_once(self._cache, image)
        except OSError as error:
            self._listing.skip(Path(image["path"]), label, f"can't be read: {error.strerror}")
            return
        group = row[self._group] if self._group else None
        self._listing.files.append(
            ImageFile(path, label, split, None if group in (None, "") else str(group))
        )

    def _encoded(self) -> Any:
        """The rows with images as {bytes, path}."""
        try:
            return self._rows.cast_column(self._image, self._datasets.Image(decode=False))
        except Exception as error:  # pyarrow's and the library's own
            raise DataError(
                f"column '{self._image}' of {self._data} holds no images "
                f"({type(self._rows.features[self._image]).__name__}: {_line(error)}); name "
                "another with image_column (--image-column)"
            ) from None

    def _split_column(self) -> str | None:
        names = self._rows.column_names
        if self._columns.split is not None:
            return find_column(self._data, self._columns.split, names, "split_column")
        others = [
            name for name in names
            if name not in (self._image, self._label) and self._is_text(self._rows.features[name])
        ]  # fmt: skip
        return find_split_column(others, self._values, self._columns.split_names)

    def _is_text(self, feature: Any) -> bool:
        return isinstance(feature, self._datasets.ClassLabel) or (
            getattr(feature, "dtype", None) in ("string", "large_string")
        )

    def _values(self, column: str) -> Iterable[str]:
        return {self._text(column, value) for value in self._rows.unique(column)} - {""}

    def _text(self, column: str, value: Any) -> str:
        feature = self._rows.features[column]
        if value is None or (hasattr(feature, "int2str") and value == -1):
            return ""
        return feature.int2str(value) if hasattr(feature, "int2str") else str(value).strip()

    def _own_split(self, row: dict[str, Any], where: Path) -> Any:
        """What a column of splits says of a row; None where there is none."""
        if self._split is None:
            return None
        name = self._text(self._split, row[self._split])
        choice = split_of(name, self._columns.split_names)
        if choice is None or choice == "class":
            raise unknown_split(name, f"{self._data}, {where}:")
        return choice

    def _label_of(self, value: Any, where: Path) -> str | None:
        """The class's name; None for a missing label."""
        if isinstance(value, list | dict | bytes):
            raise DataError(
                f"{self._data}, {where}: column '{self._label}' holds {type(value).__name__} and "
                "not one label an image; name another with label_column (--label-column)"
            )
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return None
        if hasattr(self._feature, "int2str"):
            if value == -1:
                return None
            try:
                return str(self._feature.int2str(value))
            except (ValueError, IndexError):
                raise DataError(
                    f"{self._data}, {where}: label {value} is none of the "
                    f"{self._feature.num_classes} that the data set names"
                ) from None
        label = str(value).strip()
        return None if is_missing(label) else label


def _load_dataset(datasets: Any, data: Path) -> Any:
    try:
        if is_saved_dataset(data):
            return datasets.load_from_disk(str(data))
        name, _, revision = str(data).removeprefix(HF_PREFIX).partition("@")
        return datasets.load_dataset(name, revision=revision or None)
    except Exception as error:  # the library raises its own, fsspec's, httpx's and OSErrors
        reason = _line(error)
        raise DataError(f"the data set {data} can't be loaded: {reason}") from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def _write_once(cache: Path, image: dict[str, Any]) -> Path:
    content = image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()
    path = cache / hashlib.sha256(content).hexdigest()
    if not path.exists():
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        temporary.write_bytes(content)
        temporary.replace(path)
    return path
