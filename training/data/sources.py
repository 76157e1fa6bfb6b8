"""Where labelled images come from: a folder, a CSV file, or a Hugging Face data set."""

from __future__ import annotations

import csv
import hashlib
import os
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from models.errors import UserError
from models.text import as_label

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
_HF_PREFIX = "hf:"


class DataError(UserError):
    """The data doesn't hold what training needs."""


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
    if str(data).startswith(_HF_PREFIX) or is_saved_dataset(data):
        return _from_hugging_face(data, label_column, image_column or "image")
    if not data.exists():
        raise DataError(
            f"data {data} does not exist; it is a directory with one folder per class, a .csv "
            "file, or hf:NAME"
        )
    if data.suffix.lower() == ".csv":
        return _from_csv(data, label_column, image_column or "path")
    return _from_folder(data)


def data_root(data: Path) -> Path:
    """The directory that paths are told relative to."""
    return data.parent if data.suffix.lower() == ".csv" else data


def _from_folder(root: Path) -> list[ImageFile]:
    if not root.is_dir():
        raise DataError(f"{root} is neither a directory with one folder per class nor a .csv file")
    if not _directories(root):
        raise DataError(
            f"data directory {root} holds no folders; put the images of each class in a folder "
            "with the class's name"
        )
    files: list[ImageFile] = []
    for directory, split in _class_directories(root):
        found = sorted(
            path
            for path in directory.rglob("*")
            if path.is_file() and all(map(_visible, path.relative_to(directory).parts))
        )
        if not found:
            raise DataError(
                f"class '{directory.name}' in {directory.parent} is empty; add images or remove it"
            )
        files.extend(ImageFile(path, directory.name, split) for path in found)
    return files


def _class_directories(root: Path) -> Iterable[tuple[Path, Split | None]]:
    if not _is_split(root):
        return [(directory, None) for directory in _directories(root)]
    return [
        (directory, _SPLIT_NAMES[split.name.lower()])
        for split in _directories(root)
        for directory in _directories(split)
    ]


def _is_split(root: Path) -> bool:
    names = [directory.name for directory in _directories(root)]
    splits = {_SPLIT_NAMES.get(name.lower()) for name in names}
    if "train" not in splits or splits == {"train"}:
        return splits == {"train"} and len(names) == 1
    if None in splits:
        other = next(name for name in names if name.lower() not in _SPLIT_NAMES)
        raise DataError(
            f"{root} holds split folders ({', '.join(names)}) and '{other}', which is none; "
            "remove it, or rename the classes if they are classes"
        )
    return True


def _directories(parent: Path) -> list[Path]:
    return sorted(path for path in parent.iterdir() if path.is_dir() and _visible(path.name))


def _visible(name: str) -> bool:
    return not name.startswith((".", "__MACOSX"))


def _from_csv(file: Path, label_column: str, image_column: str) -> list[ImageFile]:
    try:
        # A file's name may hold any bytes, and a redeploy job lists it as it is.
        with file.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as lines:
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
    name, label = row[image_column] or "", (row[label_column] or "").strip()
    if name != name.strip() and not (file.parent / name).exists():  # a space after the comma
        name = name.strip()
    if not name or not label:
        raise DataError(f"{file}, line {line}: {image_column} or {label_column} is empty")
    if not label.isascii() and as_label(label) != unicodedata.normalize("NFC", label):
        raise DataError(f"{file}, line {line}: the label is not UTF-8; save the table as UTF-8")
    split = None
    if has_splits:
        word = (row["split"] or "").strip().lower()
        if word not in _SPLIT_NAMES:
            raise DataError(f"{file}, line {line}: split is '{word}', it is train, val or test")
        split = _SPLIT_NAMES[word]
    return ImageFile(file.parent / name, label, split, (row.get("group") or "").strip() or None)


def is_saved_dataset(data: Path) -> bool:
    """Whether `datasets.save_to_disk` wrote this directory."""
    return (data / "dataset_dict.json").is_file() or (data / "dataset_info.json").is_file()


def _from_hugging_face(data: Path, label_column: str, image_column: str) -> list[ImageFile]:
    """The images are written to files once, below the cache directory, named by content."""
    try:
        import datasets
    except ImportError:
        raise DataError(
            f"{data} is a Hugging Face data set; install the extra: pip install '.[hf]'"
        ) from None
    loaded = _load_dataset(datasets, data)
    splits = loaded if isinstance(loaded, datasets.DatasetDict) else {"": loaded}
    cache = cache_directory() / "hf"
    cache.mkdir(parents=True, exist_ok=True)
    files: list[ImageFile] = []
    for split_name, split in splits.items():
        for column in (image_column, label_column):
            if column not in split.column_names:
                raise DataError(
                    f"{data} has no column '{column}' (it has {', '.join(split.column_names)}); "
                    "name it with image_column or label_column in the config file"
                )
        label_feature = split.features[label_column]
        encoded = split.cast_column(image_column, datasets.Image(decode=False))
        for row in encoded:
            label = row[label_column]
            name = label_feature.int2str(label) if hasattr(label_feature, "int2str") else str(label)
            path = _write_once(cache, row[image_column])
            files.append(ImageFile(path, name, _SPLIT_NAMES.get(str(split_name))))
    return files


def _load_dataset(datasets: Any, data: Path) -> Any:
    try:
        if is_saved_dataset(data):
            return datasets.load_from_disk(str(data))
        name, _, revision = str(data).removeprefix(_HF_PREFIX).partition("@")
        return datasets.load_dataset(name, revision=revision or None)
    except Exception as error:  # the library raises its own, fsspec's, httpx's and OSErrors
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"the data set {data} can't be loaded: {reason}") from error


def _write_once(cache: Path, image: dict[str, Any]) -> Path:
    content = image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()
    path = cache / hashlib.sha256(content).hexdigest()
    if not path.exists():
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        temporary.write_bytes(content)
        temporary.replace(path)
    return path


def cache_directory() -> Path:
    """`$XDG_CACHE_HOME/vgg19`, by default `~/.cache/vgg19`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vgg19"
