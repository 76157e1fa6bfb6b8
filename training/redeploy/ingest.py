"""The images of a redeploy job: all sources together, each image in the same split for ever.

An image's split is decided by its content alone (or its group's name), so it doesn't change when
others are added: what a model was judged on, its successors are not trained on either.
"""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from models.imaging.preprocessing import Preprocessing
from training.data.check_data import Facts, look_at, near_duplicates
from training.data.checks import Sample, SkippedFile, check_bad_fraction, check_files
from training.data.image_data import ImageData
from training.data.sources import DataError, ImageFile, Split, find_images
from training.data.splits import unit_of
from training.reporter import Reporter

_DENOMINATOR = 2**64


@dataclass(frozen=True)
class SplitRule:
    """Shares of the images that are held out, and the seed of who is."""

    val_fraction: float = 0.15
    test_fraction: float = 0.2
    seed: int = 0

    def split(self, unit: str) -> Split:
        """Where the images of a unit (one content, or one group) belong."""
        digest = hashlib.sha256(f"{self.seed}:{unit}".encode()).digest()
        share = int.from_bytes(digest[:8]) / _DENOMINATOR
        if share < self.test_fraction:
            return "test"
        return "val" if share < self.test_fraction + self.val_fraction else "train"


@dataclass(frozen=True)
class Ingested:
    """What was ingested.

    Args:
        relabelled: images whose label a later source corrected.
        left_out: near copies of images in another split, which are not used.
    """

    images: ImageData
    relabelled: int
    left_out: int


def ingest(
    sources: Sequence[Path],
    rule: SplitRule,
    preprocessing: Preprocessing,
    reporter: Reporter,
    *,
    max_bad_fraction: float,
    more: Sequence[ImageFile] = (),
) -> Ingested:
    """Read, check and split the images of all sources.

    One content counts once; the label of the last source that has it holds. Splits that a source
    names are kept. Of near copies (see `check_data`) in different splits only those in the split
    of the one with the smallest SHA-256 are kept, so that no split knows the other.

    Args:
        sources: see `training.data.sources.find_images`, the base first, corrections last.
        more: further images, which count as the last source.

    Raises:
        DataError: a source can't be read, too much of a class is unreadable, there are fewer than
            two classes, or a class has no image to train on.
    """
    named = [file for source in sources for file in find_images(source)]
    files = [*named, *more]
    samples, skipped = check_files(files, preprocessing, reporter)
    check_bad_fraction(files, skipped, max_bad_fraction)
    split_by_file: dict[Path, Split | None] = {}
    for file in files:
        split_by_file.setdefault(file.path, file.split)  # the first source has said where
    distinct: dict[str, Sample] = {}
    relabelled = 0
    for sample in samples:
        before = distinct.get(sample.sha256)
        relabelled += before is not None and before.label != sample.label
        split = split_by_file[sample.path] or rule.split(unit_of(sample))
        distinct[sample.sha256] = replace(sample, split=before.split if before else split)
    facts, unreadable = _look_at(list(distinct.values()), reporter)
    kept = _without_near_copies(facts, reporter)
    images = _image_data(sources[0], kept, [*skipped, *unreadable])
    return Ingested(images, relabelled, len(facts) - len(kept))


def write_csv(images: ImageData, path: Path) -> None:
    """As `vgg19 train --data` reads it: absolute paths, in the bytes they have, labels, splits."""
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split"])
        for sample in sorted(images.samples, key=lambda sample: sample.sha256):
            writer.writerow([sample.path.absolute(), sample.label, sample.split])


def _look_at(samples: list[Sample], reporter: Reporter) -> tuple[list[Facts], list[SkippedFile]]:
    """What is seen of each; those that became unreadable meanwhile are named in warnings."""
    facts: list[Facts] = []
    unreadable: list[SkippedFile] = []
    for looked in look_at(samples):
        if isinstance(looked, Facts):
            facts.append(looked)
        else:
            unreadable.append(looked)
            reporter.warn(f"{looked.path} can no longer be read ({looked.reason}) and is skipped")
    return facts, unreadable


def _without_near_copies(facts: list[Facts], reporter: Reporter) -> list[Sample]:
    left_out: set[str] = set()
    for group in near_duplicates(facts):
        first = min((fact.sample for fact in group), key=lambda sample: sample.sha256)
        left_out |= {f.sample.sha256 for f in group if f.sample.split != first.split}
    if left_out:
        reporter.warn(
            f"{len(left_out)} images are near copies of images in another split and are left out"
        )
    return [fact.sample for fact in facts if fact.sample.sha256 not in left_out]


def _image_data(root: Path, samples: list[Sample], skipped: list[SkippedFile]) -> ImageData:
    labels = tuple(sorted({sample.label for sample in samples}))
    if len(labels) < 2:
        raise DataError(f"{root} and what was added hold {len(labels)} class, 2 are needed")
    trained = Counter(sample.label for sample in samples if sample.split == "train")
    missing = [label for label in labels if not trained[label]]
    if missing:
        raise DataError(f"class '{missing[0]}' has no image to train on; add more of it")
    for split in ("val", "test"):
        if not any(sample.split == split for sample in samples):
            raise DataError(f"{len(samples)} images are too few: none of them came to {split}")
    return ImageData(root, labels, tuple(samples), tuple(skipped))
