"""Training images that are left out together, since one says too much of the other."""

from __future__ import annotations

from collections import Counter

import numpy as np

from models.linear.ridge import BLOCK, MAX_UNIT, Integers
from training.data.image_data import ImageData
from training.data.splits import unit_of
from training.reporter import Reporter


def units_together(data: ImageData, reporter: Reporter) -> Integers | None:
    """int64[N]: groups and copies of one image, which are judged by images other than themselves,
    as they are split; None where there are none."""
    names = [unit_of(sample) for sample in data.split("train")]
    counts = Counter(names)
    together = sum(count for count in counts.values() if count > 1)
    if together == 0 or len(counts) < 2:
        return None
    reporter.say(f"{together} copies or images of groups are left out together with their like")
    largest = max(counts.values())
    if largest > MAX_UNIT:
        reporter.warn(
            f"a group of {largest:,} images is left out in pieces of {MAX_UNIT:,} to "
            f"{MAX_UNIT + BLOCK:,}, so the rest of it flatters it"
        )
    numbers = {name: number for number, name in enumerate(counts)}
    return np.array([numbers[name] for name in names], np.int64)
