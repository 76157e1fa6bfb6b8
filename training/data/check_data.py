"""`vgg19 check-data`: what is wrong with a data set, before it costs a training run."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.errors import ImageError
from models.imaging.geometry import kept_share
from models.imaging.image import image_facts, load_image, read_image_file
from models.imaging.preprocessing import Preprocessing
from models.machine import cpu_count
from training.data.checks import Sample, check_files, judged_nowhere, tell
from training.data.listing import SkippedFile
from training.data.sources import Columns, data_root, find_images
from training.reporter import Reporter

# Perceptual hashes have 64 bits; copies that were scaled or saved again differ in a few of them.
# 4 is the usual strict choice; at 10, similar scenes begin to match.
NEAR_DUPLICATE_BITS = 4
_PIXELS = 256
_RULE = Preprocessing(image_size=_PIXELS, resize_size=_PIXELS)
_DEFAULT = Preprocessing()


@dataclass(frozen=True)
class Facts:
    """What was seen of one readable image. `hash`: 64 bits."""

    sample: Sample
    hash: int
    width: int
    height: int
    mode: str
    turned: bool


@dataclass(frozen=True)
class DataReport:
    """What was found. Groups of duplicates list their files; `leaks` those across splits.

    `left_out` is what was named and not opened, such as rows without a label; `side_files` counts
    what programs leave beside images; `judged_nowhere` are classes with too few images to judge;
    `cropped` counts the images that lose more than half of their area to the centre crop of the
    default preprocessing.
    """

    images: int
    unreadable: list[SkippedFile]
    counts: dict[str, dict[str, int]]
    imbalance: float
    exact_duplicates: list[list[str]]
    near_duplicates: list[list[str]]
    conflicting_labels: list[list[str]]
    leaks: list[list[str]]
    sizes: dict[str, tuple[int, int]]
    modes: dict[str, int]
    exif_turned: int
    left_out: list[SkippedFile]
    side_files: dict[str, int]
    judged_nowhere: list[str]
    cropped: int

    def totals(self) -> Counter[str]:
        """Images of each class, in all splits."""
        return sum((Counter(count) for count in self.counts.values()), Counter[str]())

    def as_json(self) -> dict[str, Any]:
        content = dict(self.__dict__)
        for key in ("unreadable", "left_out"):
            content[key] = [
                {"path": str(f.path), "label": f.label, "reason": f.reason} for f in content[key]
            ]
        return content

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(self.as_json(), indent=2) + "\n", encoding="utf-8")


def check_data(
    data: Path,
    reporter: Reporter,
    *,
    columns: Columns | None = None,
) -> DataReport:
    """Read every image of `data` and report.

    Raises:
        DataError: there is nothing to check.
    """
    listing = find_images(data, columns)
    tell(listing, reporter)
    has_splits = any(file.split is not None for file in listing.files)
    samples, unreadable = check_files(listing.files, _RULE, reporter)
    facts: list[Facts] = []
    with reporter.progress("comparing images", len(samples), unit="images") as advance:
        for looked in look_at(samples):
            if isinstance(looked, Facts):
                facts.append(looked)
            else:
                unreadable.append(looked)
            advance(1, "")
    exact = [group for group in _by_content(facts).values() if len(group) > 1]
    near = near_duplicates(facts)
    root = data_root(data)

    def names(groups: Sequence[Sequence[Facts]]) -> list[list[str]]:
        return [[_name(fact, root) for fact in group] for group in groups]

    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for fact in facts:
        counts[fact.sample.split if has_splits else "all"][fact.sample.label] += 1
    totals = Counter(fact.sample.label for fact in facts)
    both = [*exact, *near]
    return DataReport(
        images=len(facts),
        unreadable=unreadable,
        counts={split: dict(sorted(count.items())) for split, count in counts.items()},
        imbalance=max(totals.values()) / min(totals.values()) if totals else 1.0,
        exact_duplicates=names(exact),
        near_duplicates=names(near),
        conflicting_labels=names([g for g in both if len({f.sample.label for f in g}) > 1]),
        leaks=names([g for g in both if len({f.sample.split for f in g}) > 1])
        if has_splits
        else [],
        sizes=_sizes(facts),
        modes=dict(Counter(fact.mode for fact in facts)),
        exif_turned=sum(fact.turned for fact in facts),
        left_out=listing.skipped,
        side_files=dict(listing.side_files),
        judged_nowhere=judged_nowhere(
            samples, val_is_drawn=not any(sample.split == "val" for sample in samples)
        ),
        cropped=sum(kept_share((fact.width, fact.height), _DEFAULT) < 0.5 for fact in facts),
    )


def near_duplicates(facts: Sequence[Facts], bits: int = NEAR_DUPLICATE_BITS) -> list[list[Facts]]:
    """Groups of images whose perceptual hashes differ in at most `bits` bits, directly or by way
    of others; of exact copies only the first takes part."""
    distinct = [group[0] for group in _by_content(facts).values()]
    hashes = np.array([fact.hash for fact in distinct], np.uint64)
    parent = list(range(len(distinct)))

    def root_of(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for index, other in _close_pairs(hashes, bits):
        parent[root_of(other)] = root_of(index)
    groups: dict[int, list[Facts]] = defaultdict(list)
    for index, fact in enumerate(distinct):
        groups[root_of(index)].append(fact)
    return [group for group in groups.values() if len(group) > 1]


def _close_pairs(hashes: NDArray[np.uint64], bits: int) -> Iterator[tuple[int, int]]:
    """Pairs of indices whose hashes differ in at most `bits` bits; some come more than once.

    Cut into `bits` + 1 pieces, such hashes have a piece in common (the pigeonhole principle), so
    only those are compared, of all pairs one in thousands.
    """
    edges = np.linspace(0, 64, bits + 2).astype(np.uint64)
    for low, high in pairwise(edges):
        pieces = (hashes >> low) & np.uint64((1 << int(high - low)) - 1)
        order = np.argsort(pieces, kind="stable")
        starts = np.flatnonzero(np.diff(pieces[order])) + 1
        for members in np.split(order, starts):
            for place in range(len(members) - 1):
                index, others = members[place], members[place + 1 :]
                differing = np.bitwise_count(hashes[others] ^ hashes[index])
                for other in others[differing <= bits]:
                    yield int(index), int(other)


def look_at(samples: Sequence[Sample]) -> Iterator[Facts | SkippedFile]:
    """The facts of each, in order; of one that became unreadable since it was checked, why."""
    with ThreadPoolExecutor(cpu_count()) as pool:
        yield from pool.map(_look_at, samples)


def _look_at(sample: Sample) -> Facts | SkippedFile:
    try:
        content = read_image_file(sample.path)
        facts = image_facts(content)
        # Of the same pixels that training sees, so that turned and converted copies match.
        pixels = load_image(content, _RULE)
    except ImageError as error:
        return SkippedFile(sample.path, sample.label, str(error))
    bits = int(str(imagehash.phash(Image.fromarray(pixels))), 16)
    return Facts(sample, bits, facts.width, facts.height, facts.mode, facts.turned)


def _by_content(facts: Sequence[Facts]) -> dict[str, list[Facts]]:
    groups: dict[str, list[Facts]] = defaultdict(list)
    for fact in facts:
        groups[fact.sample.sha256].append(fact)
    return groups


def _sizes(facts: Sequence[Facts]) -> dict[str, tuple[int, int]]:
    """Width and height of the smallest, the median and the largest image, by pixels."""
    if not facts:
        return {}
    ordered = sorted((fact.width * fact.height, fact.width, fact.height) for fact in facts)
    places = {"smallest": 0, "median": len(ordered) // 2, "largest": -1}
    return {name: ordered[place][1:] for name, place in places.items()}


def _name(fact: Facts, root: Path) -> str:
    path = fact.sample.path
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
