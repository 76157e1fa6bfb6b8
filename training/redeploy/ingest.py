"""The images of a redeploy job: all sources together, each image in the same split for ever.

An image's split is decided by its content alone (or its group's name), so it doesn't change when
others are added: what a model was judged on, its successors are not trained on either.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from models.imaging.preprocessing import Preprocessing
from models.machine import cpu_count
from training.data.check_data import look_at, near_duplicates
from training.data.checks import Sample, SkippedFile, check_bad_fraction, check_files
from training.data.image_data import ImageData
from training.data.sources import DataError, ImageFile, Split, find_images
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
    names are kept; where all images are named train or test, val is taken from train. Of near
    copies (see `check_data`) in different splits only those in the split of the one with the
    smallest SHA-256 are kept, so that no split knows the other.

    Args:
        sources: see `training.data.sources.find_images`, the base first, corrections last.
        more: further images, which count as the last source.

    Raises:
        DataError: a source can't be read, too much of a class is unreadable, there are fewer than
            two classes, or a class has no image to train on.
    """
    files = [*(file for source in sources for file in find_images(source)), *more]
    samples, skipped = check_files(files, preprocessing, reporter)
    check_bad_fraction(files, skipped, max_bad_fraction)
    places = _places(files, rule)
    distinct: dict[str, Sample] = {}
    relabelled = 0
    for sample in samples:
        before = distinct.get(sample.sha256)
        relabelled += before is not None and before.label != sample.label
        place = places[sample.path]
        split = place.split(unit_of(sample)) if isinstance(place, SplitRule) else place
        distinct[sample.sha256] = replace(sample, split=before.split if before else split)
    kept = _without_near_copies(list(distinct.values()), reporter)
    images = _image_data(sources[0], kept, skipped)
    return Ingested(images, relabelled, len(distinct) - len(kept))


def write_csv(images: ImageData, path: Path) -> None:
    """As `vgg19 train --data` reads it: absolute paths, labels, splits."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split"])
        for sample in sorted(images.samples, key=lambda sample: sample.sha256):
            writer.writerow([sample.path.absolute(), sample.label, sample.split])


def _places(files: Sequence[ImageFile], rule: SplitRule) -> dict[Path, Split | SplitRule]:
    """The split of each file, or what decides it: as the first source that has it says."""
    places: dict[Path, Split | SplitRule] = {file.path: file.split or rule for file in files[::-1]}
    if all(place in ("train", "test") for place in places.values()):
        of_train = replace(rule, test_fraction=0.0)
        return {path: of_train if place == "train" else place for path, place in places.items()}
    return places


def _without_near_copies(samples: list[Sample], reporter: Reporter) -> list[Sample]:
    with ThreadPoolExecutor(cpu_count()) as pool:
        facts = list(pool.map(look_at, samples))
    left_out: set[str] = set()
    for group in near_duplicates(facts):
        first = min((fact.sample for fact in group), key=lambda sample: sample.sha256)
        left_out |= {f.sample.sha256 for f in group if f.sample.split != first.split}
    if left_out:
        reporter.warn(
            f"{len(left_out)} images are near copies of images in another split and are left out"
        )
    return [sample for sample in samples if sample.sha256 not in left_out]


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
