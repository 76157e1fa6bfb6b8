"""Labelled images, checked and split."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from models.imaging.preprocessing import Preprocessing
from training.data.checks import (
    Sample,
    check_bad_fraction,
    check_files,
    check_labels_agree,
    judged_nowhere,
    keep_apart,
    tell,
)
from training.data.exclude import leave_out
from training.data.listing import SkippedFile, SplitBy
from training.data.sources import (
    SPLITS,
    Columns,
    DataError,
    ImageFile,
    Split,
    data_root,
    find_images,
)
from training.data.splits import SplitRule, split_by_hash, split_exactly
from training.reporter import Reporter

_SHOWN_CLASSES = 10


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

    def name(self, path: Path) -> str:
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
                    "path": self.name(s.path),
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
    columns: Columns,
    val_fraction: float,
    test_fraction: float,
    max_bad_fraction: float,
    allow_conflicting_labels: bool,
    seed: int,
    split_by: SplitBy,
    exclude: Path | None = None,
    reporter: Reporter,
) -> ImageData:
    """Find, decode once (to find bad files before training does) and split labelled images.

    Splits that the data names are kept; a missing val is taken from train. An image that lies in
    several is left in the one that judges. What is left out is named in warnings.

    Args:
        data: see `training.data.sources.find_images`.
        exclude: a table of images to leave out, see `training.data.exclude.leave_out`.

    Raises:
        DataError: no images, fewer than two classes, an empty class, more than `max_bad_fraction`
            of a class unreadable, an image with two labels in a table, or a table of images to
            leave out that names one which isn't there.
    """
    listing = find_images(data, columns)
    tell(listing, reporter)
    excluded: list[SkippedFile] = []
    if exclude is not None:
        found = len(listing.files)
        listing.files, excluded = leave_out(listing.files, exclude, data_root(data))
        reporter.say(f"{exclude} excludes {len(excluded)} of {found} images")
    labels = _check_classes(listing.files, data)
    samples, unreadable = check_files(listing.files, preprocessing, reporter)
    skipped = [*listing.skipped, *unreadable]
    check_bad_fraction(samples, skipped, max_bad_fraction)
    check_labels_agree(
        samples, reporter, is_table=listing.is_table, allowed=allow_conflicting_labels
    )
    samples, copies = keep_apart(samples, reporter)
    if any(file.split is not None for file in listing.files):
        test_fraction = 0.0  # what the data names is kept
    if not any(sample.split == "val" for sample in samples):
        rule = SplitRule(val_fraction, test_fraction, seed)
        samples = (split_by_hash if split_by == "hash" else split_exactly)(samples, rule)
    images = ImageData(data_root(data), labels, tuple(samples), (*skipped, *copies, *excluded))
    _check_splits(images)
    _warn_of_classes_not_judged(images, reporter)
    return images


def load_labelled_images(
    data: Path,
    labels: Sequence[str],
    preprocessing: Preprocessing,
    reporter: Reporter,
    *,
    columns: Columns | None = None,
    allow_conflicting_labels: bool = False,
) -> tuple[ImageData, str]:
    """The images of `data` that judge a model with these labels, as one test split.

    They are its test split, or where it has none its val split, or where it names none of both all
    its images.

    Returns:
        the images, and which these are, for people.

    Raises:
        DataError: no images, a class that the model doesn't know, or an image with two labels in a
            table.
    """
    listing = find_images(data, columns)
    tell(listing, reporter)
    chosen, what = _judging(listing.files)
    files = [replace(file, split="test") for file in chosen]
    unknown = sorted({file.label for file in files} - set(labels))
    if unknown:
        raise DataError(
            f"class '{unknown[0]}' in {data} is none of the model's: {', '.join(labels)}"
        )
    samples, unreadable = check_files(files, preprocessing, reporter)
    if not samples:
        raise DataError(f"{data} holds no readable image in what is judged: {what}")
    check_labels_agree(
        samples, reporter, is_table=listing.is_table, allowed=allow_conflicting_labels
    )
    skipped = (*listing.skipped, *unreadable)
    images = ImageData(data_root(data), tuple(labels), tuple(samples), skipped)
    return images, f"{what} of {data}"


def _judging(files: Sequence[ImageFile]) -> tuple[list[ImageFile], str]:
    for split in ("test", "val"):
        chosen = [file for file in files if file.split == split]
        if chosen:
            others = Counter(file.split or "no split" for file in files if file.split != split)
            rest = ", ".join(f"{count} of {name}" for name, count in sorted(others.items()))
            return chosen, f"the {split} split" + (f" (without {rest})" if rest else "")
    named = any(file.split is not None for file in files)
    return list(files), "the train split, the only one," if named else "all images"


def _warn_of_classes_not_judged(data: ImageData, reporter: Reporter) -> None:
    nowhere = judged_nowhere(data.samples, val_is_drawn=False)
    if nowhere:
        reporter.warn(
            f"{_classes(nowhere)} trained on and judged nowhere: no image is left to validate or "
            "test; add images"
        )
    counts = data.counts()
    untested = [
        label for label in data.labels
        if data.held_out == "test" and not counts["test"][label] and label not in nowhere
    ]  # fmt: skip
    if untested:
        reporter.warn(f"{_classes(untested)} judged on val only, without an image in test")


def _classes(labels: Sequence[str]) -> str:
    shown = ", ".join(f"'{label}'" for label in labels[:_SHOWN_CLASSES])
    more = f" and {len(labels) - _SHOWN_CLASSES} more" if len(labels) > _SHOWN_CLASSES else ""
    return f"class {shown} is" if len(labels) == 1 else f"classes {shown}{more} are"


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
                f"class '{label}' in {data.root} has no readable image to train on that isn't in "
                "val or test as well; add some"
            )
    if not data.split("val"):
        raise DataError(
            f"{data.root} has too few images to set some aside for validation: "
            f"{len(data.samples)} in {len(data.labels)} classes, at least 3 in one class are needed"
        )
