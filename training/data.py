"""Image folders: find the files, check them, split them, feed them to the loop."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from models.errors import ImageError, UserError
from models.image import load_image
from models.spec import Preprocessing
from training.console import Reporter

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
_SPLIT_ALIASES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}


class DataError(UserError):
    """The data directory doesn't hold what training needs."""


@dataclass(frozen=True)
class Sample:
    """One readable image. `sha256` is that of the file's bytes."""

    path: Path
    label: str
    split: Split
    sha256: str


@dataclass(frozen=True)
class SkippedFile:
    path: Path
    label: str
    reason: str


@dataclass(frozen=True)
class ImageData:
    """A checked and split data set. `labels` are sorted; their order is the class index."""

    root: Path
    labels: tuple[str, ...]
    samples: tuple[Sample, ...]
    skipped: tuple[SkippedFile, ...]

    def split(self, name: Split) -> list[Sample]:
        return [sample for sample in self.samples if sample.split == name]

    @property
    def held_out(self) -> Split:
        """The split that judges the model: test, or val where there is no test."""
        return "test" if self.split("test") else "val"

    def fingerprint(self) -> str:
        """SHA-256 over which content has which label in which split; independent of file names."""
        lines = sorted(f"{s.split}\t{s.label}\t{s.sha256}\n" for s in self.samples)
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def counts(self) -> dict[str, dict[str, int]]:
        """Images by split and label."""
        counts: dict[str, dict[str, int]] = {s: dict.fromkeys(self.labels, 0) for s in SPLITS}
        for sample in self.samples:
            counts[sample.split][sample.label] += 1
        return counts

    def describe(self) -> dict[str, Any]:
        """What `data.json` in the run directory holds."""
        return {
            "root": str(self.root),
            "fingerprint": self.fingerprint(),
            "labels": list(self.labels),
            "counts": self.counts(),
            "held_out": self.held_out,
            "skipped": [
                {"path": str(f.path), "label": f.label, "reason": f.reason} for f in self.skipped
            ],
            "files": [
                {
                    "path": str(s.path.relative_to(self.root)),
                    "label": s.label,
                    "split": s.split,
                    "sha256": s.sha256,
                }
                for s in self.samples
            ],
        }


def load_image_folder(
    root: Path,
    preprocessing: Preprocessing,
    *,
    val_fraction: float,
    test_fraction: float,
    max_bad_fraction: float,
    seed: int,
    reporter: Reporter,
) -> ImageData:
    """Find, decode once (to find bad files before training does) and split the images of a folder.

    The folder is `class/file`, split here by class, or `{train,val,test}/class/file`, where a
    missing val is taken from train. Hidden files are ignored; directories inside a class are
    searched. Files that are no images are named in warnings and left out.

    Raises:
        DataError: no directory, no images, fewer than two classes, an empty class, or more than
            `max_bad_fraction` of a class unreadable.
    """
    files = _find_files(root)
    labels = _check_classes(files, root)
    samples, skipped = _check_files(files, preprocessing, reporter)
    _check_bad_fraction(files, skipped, max_bad_fraction)
    _warn_of(skipped, len(files), reporter)
    if not _is_split(root):
        samples = _split_off(samples, "test", test_fraction, seed)
        val_fraction /= 1 - test_fraction  # of what is left in train
    if not any(sample.split == "val" for sample in samples):
        samples = _split_off(samples, "val", val_fraction, seed)
    data = ImageData(root, labels, tuple(samples), tuple(skipped))
    _check_splits(data)
    return data


def load_labelled_images(
    root: Path, labels: Sequence[str], preprocessing: Preprocessing, reporter: Reporter
) -> ImageData:
    """All images of a folder `class/file` as one test split, for a model with these labels.

    Raises:
        DataError: no directory, no images, or a class that the model doesn't know.
    """
    files = [_File(file.path, file.label, "test") for file in _find_files(root)]
    unknown = sorted({file.label for file in files} - set(labels))
    if unknown:
        raise DataError(
            f"class '{unknown[0]}' in {root} is none of the model's: {', '.join(labels)}"
        )
    samples, skipped = _check_files(files, preprocessing, reporter)
    _warn_of(skipped, len(files), reporter)
    if not samples:
        raise DataError(f"{root} holds no readable image")
    return ImageData(root, tuple(labels), tuple(samples), tuple(skipped))


@dataclass(frozen=True)
class _File:
    path: Path
    label: str
    split: Split


def _find_files(root: Path) -> list[_File]:
    if not root.exists():
        raise DataError(f"data directory {root} does not exist; it holds one folder per class")
    if not root.is_dir():
        raise DataError(f"{root} is a file; --data takes a directory with one folder per class")
    if not _directories(root):
        raise DataError(
            f"data directory {root} holds no folders; put the images of each class in a folder "
            "with the class's name"
        )
    files: list[_File] = []
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
        files.extend(_File(path, directory.name, split) for path in found)
    return files


def _class_directories(root: Path) -> Iterable[tuple[Path, Split]]:
    if not _is_split(root):
        return [(directory, "train") for directory in _directories(root)]
    return [
        (directory, _SPLIT_ALIASES[split.name.lower()])
        for split in _directories(root)
        for directory in _directories(split)
    ]


def _is_split(root: Path) -> bool:
    names = [directory.name for directory in _directories(root)]
    splits = {_SPLIT_ALIASES.get(name.lower()) for name in names}
    if "train" not in splits or splits == {"train"}:
        return splits == {"train"} and len(names) == 1
    if None in splits:
        other = next(name for name in names if name.lower() not in _SPLIT_ALIASES)
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


def _check_classes(files: Sequence[_File], root: Path) -> tuple[str, ...]:
    labels = tuple(sorted({file.label for file in files if file.split == "train"}))
    if len(labels) < 2:
        found = f"one class ('{labels[0]}')" if labels else "no class"
        raise DataError(f"{root} holds {found} to train on, at least 2 are needed; one folder each")
    unknown = sorted({file.label for file in files} - set(labels))
    if unknown:
        raise DataError(
            f"class '{unknown[0]}' in {root} has no training images; add some or remove it"
        )
    return labels


def _check_files(
    files: Sequence[_File], preprocessing: Preprocessing, reporter: Reporter
) -> tuple[list[Sample], list[SkippedFile]]:
    samples: list[Sample] = []
    skipped: list[SkippedFile] = []
    with (
        reporter.progress("checking images", len(files)) as advance,
        ThreadPoolExecutor(_cpu_count()) as pool,
    ):
        for result in pool.map(lambda file: _check_file(file, preprocessing), files):
            if isinstance(result, Sample):
                samples.append(result)
            else:
                skipped.append(result)
            advance(1, "")
    return samples, skipped


def _warn_of(skipped: Sequence[SkippedFile], total: int, reporter: Reporter) -> None:
    if skipped:
        reporter.warn(f"{len(skipped)} of {total} files are no images and are skipped:")
    for file in skipped:
        reporter.warn(f"  {file.path}: {file.reason}")


def _check_file(file: _File, preprocessing: Preprocessing) -> Sample | SkippedFile:
    try:
        content = file.path.read_bytes()
        load_image(content, preprocessing)
    except OSError as error:
        return SkippedFile(file.path, file.label, f"can't be read: {error.strerror}")
    except ImageError as error:
        return SkippedFile(file.path, file.label, str(error))
    return Sample(file.path, file.label, file.split, hashlib.sha256(content).hexdigest())


def _check_bad_fraction(
    files: Sequence[_File], skipped: Sequence[SkippedFile], max_bad_fraction: float
) -> None:
    totals = Counter(file.label for file in files)
    bad: dict[str, list[SkippedFile]] = defaultdict(list)
    for file in skipped:
        bad[file.label].append(file)
    for label, bad_files in bad.items():
        fraction = len(bad_files) / totals[label]
        if fraction > max_bad_fraction:
            first = bad_files[0]
            raise DataError(
                f"{len(bad_files)} of {totals[label]} files of class '{label}' are no images "
                f"({fraction:.0%}, --max-bad-fraction is {max_bad_fraction:.0%}), the first is "
                f"{first.path}: {first.reason}"
            )


def _split_off(samples: Sequence[Sample], split: Split, fraction: float, seed: int) -> list[Sample]:
    """Move a fraction of each class from train to `split`, chosen by content, not by name.

    Ranked by SHA-256 of seed and content: the same images split the same way wherever they lie,
    and copies of one image stay on one side. Each class keeps at least one training image and,
    if it has more, gives at least one.
    """
    by_label: dict[str, list[str]] = defaultdict(list)
    for sample in samples:
        if sample.split == "train":
            by_label[sample.label].append(sample.sha256)
    moved: set[tuple[str, str]] = set()
    for label, contents in by_label.items():
        distinct = sorted(set(contents), key=lambda content: _rank(content, split, seed))
        wanted = round(len(distinct) * fraction)
        count = max(wanted, 1 if fraction > 0 else 0)
        moved.update((label, content) for content in distinct[: min(count, len(distinct) - 1)])
    return [
        Sample(s.path, s.label, split, s.sha256)
        if s.split == "train" and (s.label, s.sha256) in moved
        else s
        for s in samples
    ]


def _rank(content: str, split: Split, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{split}:{content}".encode()).hexdigest()


def _check_splits(data: ImageData) -> None:
    for label, count in data.counts()["train"].items():
        if count == 0:
            raise DataError(
                f"class '{label}' in {data.root} has no readable image to train on; add some"
            )
    if not data.split("val"):
        raise DataError(
            f"{data.root} has too few images to set some aside for validation: "
            f"{len(data.samples)} in {len(data.labels)} classes, at least 3 in one class are needed"
        )


class ImageDataset(Dataset[tuple[Tensor, Tensor]]):
    """Yields (uint8[S,S,3] RGB, int64[] class index)."""

    def __init__(
        self, samples: Sequence[Sample], labels: Sequence[str], preprocessing: Preprocessing
    ) -> None:
        self.samples = list(samples)
        self._index: Mapping[str, int] = {label: i for i, label in enumerate(labels)}
        self._preprocessing = preprocessing

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        sample = self.samples[index]
        # A copy: the array is a read-only view of Pillow's buffer, which torch warns about.
        pixels = torch.from_numpy(load_image(sample.path, self._preprocessing).copy())
        return pixels, torch.tensor(self._index[sample.label])


def make_loader(
    dataset: ImageDataset,
    batch_size: int,
    *,
    shuffle_seed: int | None,
    device: torch.device,
    num_workers: int | None,
) -> DataLoader[tuple[Tensor, Tensor]]:
    """A loader of (uint8[N,S,S,3], int64[N]), in shuffled order if a seed is given."""
    if num_workers is None:
        # Decoding is 1-2% of a VGG-19 step on the CPU: processes would only take its cores.
        num_workers = min(8, _cpu_count()) if device.type == "cuda" else 0
    generator = None
    if shuffle_seed is not None:
        generator = torch.Generator().manual_seed(shuffle_seed)
    return DataLoader(
        dataset,
        batch_size=batch_size,
        shuffle=shuffle_seed is not None,
        generator=generator,
        num_workers=num_workers,
        pin_memory=device.type == "cuda",
        persistent_workers=num_workers > 0,
    )


def _cpu_count() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
