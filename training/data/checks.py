"""Each file read and decoded once, before training does; and what is said of those left out."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from models.errors import ImageError
from models.imaging.image import load_image, read_image_file
from models.imaging.preprocessing import Preprocessing
from models.machine import cpu_count
from training.data.listing import DataError, ImageFile, Listing, SkippedFile, Split
from training.data.split_names import strictest
from training.reporter import Reporter


@dataclass(frozen=True)
class Sample:
    """One readable image. `sha256` is that of the file's bytes."""

    path: Path
    label: str
    split: Split
    sha256: str
    group: str | None = None


# Names told of each kind of thing; `data.json` and `check-data --output` have all of them.
_SHOWN = 10


def check_files(
    files: Sequence[ImageFile], preprocessing: Preprocessing, reporter: Reporter
) -> tuple[list[Sample], list[SkippedFile]]:
    """Hash and decode every file; those that can't be are named in warnings."""
    samples: list[Sample] = []
    skipped: list[SkippedFile] = []
    with (
        reporter.progress("checking images", len(files), unit="images") as advance,
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
        _name_first(_by_reason(skipped), reporter)
    return samples, skipped


def tell(listing: Listing, reporter: Reporter) -> None:
    """Say what was decided about a source, and name what is left out of it."""
    for note in listing.notes:
        reporter.say(note)
    if listing.side_files:
        kinds = ", ".join(
            f"{count} {kind}" for kind, count in listing.side_files.most_common(_SHOWN)
        )
        reporter.say(f"side files are left out: {kinds}")
    if not listing.skipped:
        return
    total = len(listing.files) + len(listing.skipped)
    reporter.warn(f"{len(listing.skipped)} of {total} listed are left out:")
    _name_first(_by_reason(listing.skipped), reporter)


def _by_reason(skipped: Sequence[SkippedFile]) -> list[str]:
    """A line for each reason, with how many files have it and the first of them."""
    paths_of: dict[str, list[Path]] = defaultdict(list)
    for file in skipped:
        paths_of[file.reason].append(file.path)
    return [
        f"{len(paths)}, {reason}: {_first(map(str, paths))}"
        if len(paths) > 1
        else f"{paths[0]}: {reason}"
        for reason, paths in paths_of.items()
    ]


def _name_first(lines: Sequence[str], reporter: Reporter) -> None:
    for line in lines[:_SHOWN]:
        reporter.warn(f"  {line}")
    if len(lines) > _SHOWN:
        reporter.warn(f"  and {len(lines) - _SHOWN} more")


def _first(names: Iterable[str], count: int = 3) -> str:
    listed = list(names)
    return ", ".join(listed[:count]) + (", ..." if len(listed) > count else "")


def _check_file(file: ImageFile, preprocessing: Preprocessing) -> Sample | SkippedFile:
    try:
        # Opening a pipe would wait for ever. By os.path, which takes a name that no file can have
        # for one that isn't there; pathlib raises.
        if os.path.exists(file.path) and not os.path.isfile(file.path):  # noqa: PTH110, PTH113
            return SkippedFile(file.path, file.label, "can't be read: not a file")
        content = read_image_file(file.path)
        load_image(content, preprocessing)
    except ImageError as error:
        return SkippedFile(file.path, file.label, str(error))
    digest = hashlib.sha256(content).hexdigest()
    return Sample(file.path, file.label, file.split or "train", digest, file.group)


def check_bad_fraction(
    samples: Sequence[Sample], skipped: Sequence[SkippedFile], max_bad_fraction: float
) -> None:
    """Raise DataError if more than this share of a class can't be read."""
    totals = Counter(sample.label for sample in samples)
    bad: dict[str, list[SkippedFile]] = defaultdict(list)
    for file in skipped:
        if file.label is not None:
            bad[file.label].append(file)
    for label, bad_files in bad.items():
        total = totals[label] + len(bad_files)
        fraction = len(bad_files) / total
        if fraction > max_bad_fraction:
            first = bad_files[0]
            raise DataError(
                f"{len(bad_files)} of {total} files of class '{label}' are not images "
                f"({fraction:.0%}), the first is {first.path}: {first.reason}; or remove them, or "
                f"allow more than {max_bad_fraction:.0%} of a class with --max-bad-fraction"
            )


def keep_apart(
    samples: Sequence[Sample], reporter: Reporter
) -> tuple[list[Sample], list[SkippedFile]]:
    """Leave out what lies in a split that judges as well: of copies of an image (the same bytes)
    those in test are kept, or where there are none those in val.

    Returns:
        the samples without these, and what was left out.
    """
    strict: dict[str, Split | None] = {}
    for sample in samples:
        strict[sample.sha256] = strictest(strict.get(sample.sha256), sample.split)
    kept = [sample for sample in samples if strict[sample.sha256] == sample.split]
    left_out = [
        SkippedFile(s.path, s.label, f"in {s.split}, and a copy is in {strict[s.sha256]}")
        for s in samples
        if strict[s.sha256] != s.split
    ]
    if left_out:
        reporter.warn(
            f"{len(left_out)} images lie in several splits and are left out of the one that judges "
            "less (test is kept, then val):"
        )
        _name_first([f"{file.path}: {file.reason}" for file in left_out], reporter)
    _warn_of_groups(kept, reporter)
    return kept, left_out


def _warn_of_groups(samples: Sequence[Sample], reporter: Reporter) -> None:
    """The data's own splits are kept, also where they cut a group in two."""
    splits: dict[str, set[Split]] = defaultdict(set)
    for sample in samples:
        if sample.group is not None:
            splits[sample.group].add(sample.split)
    cut = [group for group, names in splits.items() if len(names) > 1]
    if cut:
        reporter.warn(
            f"{len(cut)} groups lie in several splits, so what judges knows what was trained on: "
            f"{_first(cut)}"
        )


def check_labels_agree(
    samples: Sequence[Sample], reporter: Reporter, *, is_table: bool, allowed: bool
) -> None:
    """Say which images (the same bytes) have two labels.

    Raises:
        DataError: there are some in a table, and they aren't allowed.
    """
    labels: dict[str, dict[str, Path]] = defaultdict(dict)
    for sample in samples:
        labels[sample.sha256].setdefault(sample.label, sample.path)
    found = [by_label for by_label in labels.values() if len(by_label) > 1]
    if not found:
        return
    texts = [
        " and ".join(f"'{label}' ({path})" for label, path in by_label.items())
        for by_label in found
    ]
    if is_table and not allowed:
        raise DataError(
            f"{len(found)} images have two labels, the first: {texts[0]}; correct the table, "
            "or set allow_conflicting_labels: true (--allow-conflicting-labels)"
        )
    reporter.warn(f"{len(found)} images have two labels:")
    _name_first(texts, reporter)


def check_rows_agree(source: Path, listing: Listing, *, allowed: bool) -> None:
    """Raise DataError if a table has two labels for one path, unless that is allowed."""
    labels: dict[Path, str] = {}
    for file in listing.files if listing.is_table and not allowed else ():
        before = labels.setdefault(file.path, file.label)
        if before != file.label:
            raise DataError(
                f"{source} has two labels for {file.path}, '{before}' and '{file.label}'; correct "
                "it, or set allow_conflicting_labels: true"
            )


def judged_nowhere(samples: Sequence[Sample], *, val_is_drawn: bool) -> list[str]:
    """Classes of which no image judges the model.

    Args:
        val_is_drawn: whether val is still to be taken from train, where a class with two images
            gives one.
    """
    judging = {sample.label for sample in samples if sample.split != "train"}
    trained = Counter(sample.label for sample in samples if sample.split == "train")
    enough = 2 if val_is_drawn else max(trained.values(), default=0) + 1
    return sorted(
        label for label, count in trained.items() if label not in judging and count < enough
    )
