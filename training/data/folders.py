"""Images in folders: one for each class, perhaps in folders of splits, or with them inside."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from training.data.listing import (
    DataError,
    ImageFile,
    Listing,
    SkippedFile,
    Split,
    SplitChoice,
)
from training.data.missing_labels import is_missing_folder
from training.data.side_files import may_be_image, side_kind
from training.data.split_names import split_of

# Of folders below a class. Deeper ones are hardly meant, and a path has an end.
_MAX_DEPTH = 32
# Folders that some data sets have in each class, which say nothing.
_PLAIN_FOLDERS = frozenset(
    ("image", "images", "img", "imgs", "photo", "photos", "picture", "pictures", "data", "jpg",
     "jpeg", "png", "raw", "original", "originals")
)  # fmt: skip


class _ClassFolder(NamedTuple):
    path: Path
    label: str
    split: Split | None


@dataclass
class _Contents:
    folders: list[Path] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    broken: list[tuple[Path, str]] = field(default_factory=list)


def from_folder(root: Path, split_names: Mapping[str, SplitChoice]) -> Listing:
    """`class/file`, `split/class/file` or `class/split/file`, at any depth below the class.

    Raises:
        DataError: it isn't one of these, or a class holds nothing.
    """
    if not root.is_dir():
        raise DataError(f"{root} is neither a directory with one folder per class nor a .csv file")
    return _Reader(root, split_names).read()


def unlabelled(folder: Path) -> tuple[list[Path], list[SkippedFile]]:
    """The images below a folder, however they are sorted there, and what can't be had of it.

    As in a class: links are followed, side files left out.
    """
    return _Reader(folder.parent, {}).read_unlabelled(folder)


class _Reader:
    """Reads one root. Each directory is listed once."""

    def __init__(self, root: Path, split_names: Mapping[str, SplitChoice]) -> None:
        self._root = root
        self._split_names = split_names
        self._listing = Listing()
        self._seen: dict[Path, _Contents] = {}

    def read(self) -> Listing:
        if not self._look(self._root).folders:
            raise DataError(
                f"data directory {self._root} holds no folders; put the images of each class in a "
                "folder with the class's name"
            )
        self._leave_out_loose(self._root, "lies beside the class folders, in none")
        for folder in self._class_folders():
            self._read_class(folder)
        return self._listing

    def read_unlabelled(self, folder: Path) -> tuple[list[Path], list[SkippedFile]]:
        found, skipped = self._walk(_ClassFolder(folder, "", "test"))
        return found, [SkippedFile(path, None, reason) for path, reason in skipped]

    # Which folder is what

    def _class_folders(self) -> list[_ClassFolder]:
        meant = {
            folder: split_of(folder.name, self._split_names)
            for folder in self._look(self._root).folders
        }
        splits = {folder: _split(choice) for folder, choice in meant.items() if _split(choice)}
        classes = [folder for folder, choice in meant.items() if choice in (None, "class")]
        for folder, choice in meant.items():
            if choice == "ignore":
                self._listing.skip(folder, None, "a split that is ignored")
        if splits and classes:
            raise self._mixed([folder.name for folder in splits], classes[0].name)
        if splits:
            return [
                found for folder, split in splits.items() for found in self._in_split(folder, split)
            ]
        return self._in_classes(classes)

    def _mixed(self, splits: Sequence[str], other: str) -> DataError:
        return DataError(
            f"{self._root} holds split folders ({', '.join(splits)}) and '{other}', which is none; "
            f"remove it, or say what it is with split_names (--split-name '{other}=test', =train, "
            f"=val or =ignore); if '{splits[0]}' is a class, --split-name '{splits[0]}=class'"
        )

    def _in_split(self, folder: Path, split: Split | None) -> list[_ClassFolder]:
        inner = self._look(folder).folders
        meant = {path: _split(split_of(path.name, {})) for path in inner}
        if (
            len(inner) == 1 and meant[inner[0]] == split
        ):  # training_set/training_set, from an archive
            self._leave_out_loose(folder, "lies in no class folder")
            return self._in_split(inner[0], split)
        foreign = [path for path, other in meant.items() if other and other != split]
        if foreign and (split == "train" or len(foreign) == len(inner)):
            raise DataError(
                f"{foreign[0]} is named as a split and lies in {folder}, which is another; move it "
                "out, or rename it if it is a class"
            )
        self._leave_out_loose(folder, "lies in no class folder, so it has no label")
        return [_ClassFolder(path, path.name, split) for path in inner]

    def _in_classes(self, classes: Sequence[Path]) -> list[_ClassFolder]:
        with_splits = [
            folder for folder in classes if any(map(self._is_split, self._look(folder).folders))
        ]
        if not with_splits:
            self._check_not_splits(classes)
            return [_ClassFolder(folder, folder.name, None) for folder in classes]
        for folder in classes:
            self._check_only_splits(folder, with_splits[0])
        self._listing.notes.append(f"{self._root} holds splits inside of its classes")
        return [
            _ClassFolder(inner, folder.name, _split(split_of(inner.name, {})))
            for folder in classes
            for inner in self._look(folder).folders
        ]

    def _check_only_splits(self, folder: Path, example: Path) -> None:
        """Raise DataError unless it is `class/split/file`."""
        contents = self._look(folder)
        example_split = next(path for path in self._look(example).folders if self._is_split(path))
        strange = [
            *contents.files,
            *(path for path in contents.folders if not self._is_split(path)),
            *(
                path
                for split in contents.folders
                for path in self._look(split).folders
                if path.name.casefold() not in _PLAIN_FOLDERS
            ),
        ]
        if strange:
            raise DataError(
                f"{example_split} is named as a split, so {self._root} should hold "
                f"class/split/file, but {strange[0]} is none of that; give "
                f"--data {example} if the splits are in there, or rename what is not a split"
            )

    def _check_not_splits(self, folders: Sequence[Path]) -> None:
        """Raise DataError if the "classes" hold the same folders: they are splits of some name."""
        inner = {
            folder: {path.name.casefold() for path in self._look(folder).folders} - _PLAIN_FOLDERS
            for folder in folders
            if not self._look(folder).files
        }
        count = Counter(name for names in inner.values() for name in names)
        for folder, names in inner.items():
            shared = sorted(name for name in names if count[name] > 1)
            if len(shared) > 1 or (shared and len(shared) == len(names)):
                other = next(f for f, n in inner.items() if f != folder and shared[0] in n)
                raise DataError(
                    f"'{folder.name}' and '{other.name}' in {self._root} hold the same folders "
                    f"({', '.join(shared[:3])}), so they look like splits and not like classes; "
                    f"say which is which (--split-name '{folder.name}=train', =val, =test or "
                    "=ignore), or put the images of each class right into its folder"
                )

    def _is_split(self, path: Path) -> bool:
        return split_of(path.name, {}) is not None and self._split_names.get(path.name) != "class"

    # What is in a class

    def _read_class(self, folder: _ClassFolder) -> None:
        missing = is_missing_folder(folder.label)
        found, skipped = self._walk(folder)
        if not found and not skipped:
            raise self._empty(folder)
        for path in found:
            if missing:
                self._listing.skip(path, None, f"no label (it is in '{folder.label}')")
            else:
                self._listing.files.append(ImageFile(path, folder.label, folder.split))
        for path, reason in skipped:
            self._listing.skip(path, None if missing else folder.label, reason)

    def _empty(self, folder: _ClassFolder) -> DataError:
        endings = Counter(path.suffix for path in folder.path.rglob("*") if path.is_file())
        kinds = ", ".join(f"{count} {ending}" for ending, count in endings.most_common(3))
        return DataError(
            f"class '{folder.label}' in {folder.path.parent} holds no image"
            f"{f', only other files ({kinds})' if kinds else ''}; add images or remove it"
        )

    def _walk(self, folder: _ClassFolder) -> tuple[list[Path], list[tuple[Path, str]]]:
        """Every file below, links to folders followed; and what can't be had, with the reason."""
        found: list[Path] = []
        skipped: list[tuple[Path, str]] = []
        # A link back to where it came from, or a second one to the same place, ends here.
        above = (self._root, *self._root.resolve().parents, *folder.path.resolve().parents)
        been = {_identity(parent) for parent in above}
        waiting = [(folder.path, 0)]
        while waiting:
            directory, depth = waiting.pop()
            identity = _identity(directory)
            if identity in been:
                skipped.append((directory, "leads to a folder that holds it or was read already"))
                continue
            been.add(identity)
            contents = self._seen.pop(directory, None) or self._list(directory)
            found += contents.files
            skipped += contents.broken
            for inner in contents.folders:
                if depth >= _MAX_DEPTH:
                    skipped.append((inner, f"lies more than {_MAX_DEPTH} folders deep"))
                    continue
                self._check_no_split_within(inner, folder)
                waiting.append((inner, depth + 1))
        return sorted(found), skipped

    def _check_no_split_within(self, inner: Path, folder: _ClassFolder) -> None:
        named = _split(split_of(inner.name, {})) if self._is_split(inner) else None
        if named in (None, folder.split) or folder.split in ("val", "test"):
            return
        raise DataError(
            f"{inner} is named as a split and lies in class '{folder.label}'; move it to "
            f"{named}/{folder.label}, or rename it if it is not a split"
        )

    def _leave_out_loose(self, directory: Path, reason: str) -> None:
        for path in self._look(directory).files:
            self._listing.skip(path, None, reason)
        for path, why in self._look(directory).broken:
            self._listing.skip(path, None, why)

    def _look(self, directory: Path) -> _Contents:
        """What a directory holds, side files aside; from memory the second time."""
        if directory not in self._seen:
            self._seen[directory] = self._list(directory)
        return self._seen[directory]

    def _list(self, directory: Path) -> _Contents:
        contents = _Contents()
        try:
            with os.scandir(directory) as entries:
                names = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            if directory == self._root:
                raise DataError(f"{directory} can't be read: {error.strerror}") from None
            contents.broken.append((directory, f"can't be read: {error.strerror}"))
            return contents
        for entry in names:
            self._sort(entry, contents)
        return contents

    def _sort(self, entry: os.DirEntry[str], contents: _Contents) -> None:
        path = Path(entry.path)
        try:
            is_folder, is_file = entry.is_dir(), entry.is_file()
        except OSError as error:  # a link to itself, or a disk that fails
            contents.broken.append((path, f"can't be read: {error.strerror}"))
            return
        kind = side_kind(entry.name, is_folder=is_folder)
        if kind is not None:
            self._listing.side_files[kind] += 1
        elif is_folder:
            contents.folders.append(path)
        elif is_file and may_be_image(path):
            contents.files.append(path)
        elif is_file:
            self._listing.side_files[path.suffix.lower()] += 1
        else:
            reason = "is a dangling link" if entry.is_symlink() else "is not a regular file"
            contents.broken.append((path, reason))


def _split(choice: SplitChoice | None) -> Split | None:
    return None if choice == "class" or choice == "ignore" else choice


def _identity(directory: Path) -> tuple[int, int] | Path:
    try:
        stat = directory.stat()
    except OSError:  # said where it is listed
        return directory
    return stat.st_dev, stat.st_ino
