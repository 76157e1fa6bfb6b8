"""Each file read and decoded once, before training does."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from models.errors import ImageError
from models.imaging.image import load_image, read_image_file
from models.imaging.preprocessing import Preprocessing
from models.machine import cpu_count
from training.data.sources import DataError, ImageFile, Split
from training.reporter import Reporter


@dataclass(frozen=True)
class Sample:
    """One readable image. `sha256` is that of the file's bytes."""

    path: Path
    label: str
    split: Split
    sha256: str
    group: str | None = None


@dataclass(frozen=True)
class SkippedFile:
    path: Path
    label: str
    reason: str


def check_files(
    files: Sequence[ImageFile], preprocessing: Preprocessing, reporter: Reporter
) -> tuple[list[Sample], list[SkippedFile]]:
    """Hash and decode every file; those that can't be are named in warnings."""
    samples: list[Sample] = []
    skipped: list[SkippedFile] = []
    with (
        reporter.progress("checking images", len(files)) as advance,
        ThreadPoolExecutor(cpu_count()) as pool,
    ):
        for result in pool.map(lambda file: _check_file(file, preprocessing), files):
            if isinstance(result, Sample):
                samples.append(result)
            else:
                skipped.append(result)
            advance(1, "")
    if skipped:
        reporter.warn(f"{len(skipped)} of {len(files)} files are not images and are skipped:")
    for file in skipped:
        reporter.warn(f"  {file.path}: {file.reason}")
    return samples, skipped


def _check_file(file: ImageFile, preprocessing: Preprocessing) -> Sample | SkippedFile:
    try:
        content = read_image_file(file.path)
        load_image(content, preprocessing)
    except ImageError as error:
        return SkippedFile(file.path, file.label, str(error))
    digest = hashlib.sha256(content).hexdigest()
    return Sample(file.path, file.label, file.split or "train", digest, file.group)


def check_bad_fraction(
    files: Sequence[ImageFile], skipped: Sequence[SkippedFile], max_bad_fraction: float
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
                f"{len(bad_files)} of {totals[label]} files of class '{label}' are not images "
                f"({fraction:.0%}, --max-bad-fraction is {max_bad_fraction:.0%}), the first is "
                f"{first.path}: {first.reason}"
            )
