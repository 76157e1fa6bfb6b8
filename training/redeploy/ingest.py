"""The images of a redeploy job: all sources together, each image in the same split for ever.

An image's split is decided by its content alone (or its group's name), so it doesn't change when
others are added: what a model was judged on, its successors are not trained on either.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from models.imaging.preprocessing import Preprocessing
from training.data.check_data import Facts, look_at, near_duplicates
from training.data.checks import (
    Sample,
    check_bad_fraction,
    check_files,
    check_rows_agree,
    tell,
)
from training.data.image_data import ImageData
from training.data.listing import Columns, SkippedFile
from training.data.sources import DataError, ImageFile, Split, find_images
from training.data.split_names import strictest
from training.data.splits import SplitRule, unit_of
from training.reporter import Reporter


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

    def without(self, contents: Collection[str]) -> Ingested:
        """Without the images of these SHA-256.

        Raises:
            DataError: a class has no image to train on any more, or a split none at all.
        """
        images = self.images
        kept = [one for one in images.samples if one.sha256 not in contents]
        return replace(self, images=_image_data(images.root, kept, [*images.skipped]))


def ingest(
    sources: Sequence[Path],
    rule: SplitRule,
    preprocessing: Preprocessing,
    reporter: Reporter,
    *,
    max_bad_fraction: float,
    columns: Columns | None = None,
    allow_conflicting_labels: bool = False,
    more: Sequence[ImageFile] = (),
    exclude: Collection[str] = (),
) -> Ingested:
    """Read, check and split the images of all sources.

    One content counts once; the label of the last source that has it holds. Splits that a source
    names are kept; where all images are named train or test, val is taken from train. Of near
    copies (see `check_data`) in different splits only those in the split of the one with the
    smallest SHA-256 are kept, so that no split knows the other.

    Args:
        sources: see `training.data.sources.find_images`, the base first, corrections last.
        columns: of all sources.
        allow_conflicting_labels: of two labels that one table has for an image the last holds.
        more: further images, which count as the last source.
        exclude: SHA-256 of images that are left out, whatever they are called.

    Raises:
        DataError: a source can't be read, too much of a class is unreadable, there are fewer than
            two classes, or a class has no image to train on.
    """
    listings = [find_images(source, columns) for source in sources]
    for path, listing in zip(sources, listings, strict=True):
        tell(listing, reporter)
        check_rows_agree(path, listing, allowed=allow_conflicting_labels)
    files = [*(file for listing in listings for file in listing.files), *more]
    samples, unreadable = check_files(files, preprocessing, reporter)
    found = len(samples)
    samples = [sample for sample in samples if sample.sha256 not in exclude]
    if found > len(samples):
        reporter.say(f"{found - len(samples)} images are left out by their content")
    skipped = [*(file for listing in listings for file in listing.skipped), *unreadable]
    check_bad_fraction(samples, skipped, max_bad_fraction)
    named = _named_splits([*(listing.files for listing in listings), more])
    val_from_train = {split for _, split in named.values()} <= {"train", "test"}
    of_train = replace(rule, test_fraction=0.0)
    distinct: dict[str, Sample] = {}
    named_in: dict[str, int] = {}  # the first source that has this content
    relabelled = 0
    for sample in samples:
        source, split_named = named[sample.path]
        split: Split | None = split_named
        if split_named is None:
            split = rule.split(unit_of(sample))
        elif split_named == "train" and val_from_train:
            split = of_train.split(unit_of(sample))
        before = distinct.get(sample.sha256)
        if before is not None:
            relabelled += before.label != sample.label
            same = named_in[sample.sha256] == source
            split = strictest(before.split, split_named if same else None)
        named_in.setdefault(sample.sha256, source)
        distinct[sample.sha256] = replace(sample, split=split or "train")
    facts, vanished = _look_at(list(distinct.values()), reporter)
    kept = _without_near_copies(facts, reporter)
    images = _image_data(sources[0], kept, [*skipped, *vanished])
    return Ingested(images, relabelled, len(facts) - len(kept))


def _named_splits(
    sources: Sequence[Sequence[ImageFile]],
) -> dict[Path, tuple[int, Split | None]]:
    """The first source that names a file, and the split it says (of two the one that judges)."""
    named: dict[Path, tuple[int, Split | None]] = {}
    for number, files in enumerate(sources):
        for file in files:
            source, split = named.setdefault(file.path, (number, file.split))
            if source == number:
                named[file.path] = (number, strictest(split, file.split))
    return named


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
