"""Images in folders: one for each class, perhaps in folders of splits."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from training.data.listing import _SPLIT_NAMES, DataError, ImageFile, Split


def from_folder(root: Path) -> list[ImageFile]:
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
    directories = sorted(path for path in parent.iterdir() if path.is_dir() and _visible(path.name))
    for directory in directories:
        try:
            directory.name.encode()
        except UnicodeEncodeError:
            raise DataError(
                f"the name of folder {directory.name!a} in {parent} is not UTF-8; rename it"
            ) from None
    return directories


def _visible(name: str) -> bool:
    return not name.startswith((".", "__MACOSX"))
