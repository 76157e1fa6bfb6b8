"""Which images judge and which are trained on, by their content."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

from training.data.checks import Sample
from training.data.sources import Split


def split_off(samples: Sequence[Sample], split: Split, fraction: float, seed: int) -> list[Sample]:
    """Move a fraction of each class from train to `split`, chosen by content, not by name.

    What moves together is a group, or where there is none, the copies of one image. They are
    ranked by SHA-256 of seed and content (or group), so the same images split the same way
    wherever they lie. Each class keeps at least one training image and, if it can, gives one.
    """
    units: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        if sample.split == "train":
            units[unit_of(sample)].append(sample)
    counts = Counter(sample.label for unit in units.values() for sample in unit)
    wanted = {
        label: min(max(round(count * fraction), 1), count - 1) if fraction > 0 else 0
        for label, count in counts.items()
    }
    ranked = sorted(units, key=lambda unit: _rank(unit, split, seed))
    moved: set[str] = set()
    taken: Counter[str] = Counter()
    for limit in (wanted, {label: counts[label] - 1 for label in counts}):
        for unit in ranked:
            sizes = Counter(sample.label for sample in units[unit])
            needed = any(taken[label] < wanted[label] for label in sizes)
            if limit is not wanted:  # second round: a class that got nothing takes a large group
                needed = any(taken[label] == 0 < wanted[label] for label in sizes)
            fits = all(taken[label] + size <= limit[label] for label, size in sizes.items())
            if unit not in moved and needed and fits:
                moved.add(unit)
                taken.update(sizes)
    return [
        replace(sample, split=split)
        if sample.split == "train" and unit_of(sample) in moved
        else sample
        for sample in samples
    ]


def unit_of(sample: Sample) -> str:
    return f"group {sample.group}" if sample.group is not None else sample.sha256


def _rank(unit: str, split: Split, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{split}:{unit}".encode()).hexdigest()
