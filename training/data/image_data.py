"""Labelled images, checked and split."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from models.imaging.preprocessing import Preprocessing
from training.data.checks import Sample, SkippedFile, check_bad_fraction, check_files
from training.data.sources import SPLITS, DataError, ImageFile, Split, data_root, find_images
from training.data.splits import split_off
from training.reporter import Reporter


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

    def _name(self, path: Path) -> str:
        """Relative within the root, else absolute: `..` leads elsewhere from behind a link."""
        inside = path.is_relative_to(self.root)
        return str(path.relative_to(self.root) if inside else path.absolute())

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
                    "path": self._name(s.path),
                    "label": s.label,
                    "split": s.split,
                    "sha256": s.sha256,
                }
                for s in self.samples
            ],
        }


def load_images(
    data: Path,
    preprocessing: Preprocessing,
    *,
    label_column: str,
    image_column: str | None,
    val_fraction: float,
    test_fraction: float,
    max_bad_fraction: float,
    seed: int,
    reporter: Reporter,
) -> ImageData:
    """Find, decode once (to find bad files before training does) and split labelled images.

    Splits that the data names are kept; a missing val is taken from train. Files that are not
    images are named in warnings and left out.

    Args:
        data: see `training.data.sources.find_images`.

    Raises:
        DataError: no images, fewer than two classes, an empty class, or more than
            `max_bad_fraction` of a class unreadable.
    """
    files = find_images(data, label_column=label_column, image_column=image_column)
    labels = _check_classes(files, data)
    samples, skipped = check_files(files, preprocessing, reporter)
    check_bad_fraction(files, skipped, max_bad_fraction)
    if all(file.split is None for file in files):
        samples = split_off(samples, "test", test_fraction, seed)
        val_fraction /= 1 - test_fraction  # of what is left in train
    if not any(sample.split == "val" for sample in samples):
        samples = split_off(samples, "val", val_fraction, seed)
    images = ImageData(data_root(data), labels, tuple(samples), tuple(skipped))
    _check_splits(images)
    return images


def load_labelled_images(
    data: Path, labels: Sequence[str], preprocessing: Preprocessing, reporter: Reporter
) -> ImageData:
    """All images of `data` as one test split, for a model with these labels.

    Raises:
        DataError: no images, or a class that the model doesn't know.
    """
    files = [replace(file, split="test") for file in find_images(data)]
    unknown = sorted({file.label for file in files} - set(labels))
    if unknown:
        raise DataError(
            f"class '{unknown[0]}' in {data} is none of the model's: {', '.join(labels)}"
        )
    samples, skipped = check_files(files, preprocessing, reporter)
    if not samples:
        raise DataError(f"{data} holds no readable image")
    return ImageData(data_root(data), tuple(labels), tuple(samples), tuple(skipped))


def _check_classes(files: Sequence[ImageFile], data: Path) -> tuple[str, ...]:
    labels = tuple(sorted({file.label for file in files if file.split in (None, "train")}))
    if len(labels) < 2:
        found = f"one class ('{labels[0]}')" if labels else "no class"
        raise DataError(f"{data} holds {found} to train on, at least 2 are needed")
    unknown = sorted({file.label for file in files} - set(labels))
    if unknown:
        raise DataError(
            f"class '{unknown[0]}' in {data} has no training images; add some or remove it"
        )
    return labels


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
