"""Which images judge and which are trained on, by their content.

What moves together is a unit: a group, or where there is none, the copies of one image. Two rules:
`split_by_hash` looks at a unit alone, so an image is where it is whatever else there is, in `train`
and `redeploy` alike; `split_exactly` ranks the units of a class, for shares that are exact.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from training.data.checks import Sample
from training.data.sources import Split

_DENOMINATOR = 2**64


@dataclass(frozen=True)
class SplitRule:
    """Shares of the images that are held out, and the seed of who is."""

    val_fraction: float = 0.15
    test_fraction: float = 0.15
    seed: int = 0

    def split(self, unit: str) -> Split:
        """Where the images of a unit belong."""
        return self.at(self.share(unit))

    def at(self, share: float) -> Split:
        """Where what has this share belongs."""
        if share < self.test_fraction:
            return "test"
        return "val" if share < self.test_fraction + self.val_fraction else "train"

    def share(self, unit: str) -> float:
        """0..1, evenly spread; the lowest are to test, those after them to val."""
        digest = hashlib.sha256(f"{self.seed}:{unit}".encode()).digest()
        return int.from_bytes(digest[:8]) / _DENOMINATOR


def split_by_hash(samples: Sequence[Sample], rule: SplitRule) -> list[Sample]:
    """Move the images in train to where the rule has them.

    Only where chance leaves a class without, units of it are moved against the rule: half of its
    share at least stays to be trained on, and if train has more than one left, it gives an image
    to a split that has none.
    """
    units: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        if sample.split == "train":
            units[unit_of(sample)].append(sample)
    shares = {unit: rule.share(unit) for unit in units}
    placed = {unit: rule.at(share) for unit, share in shares.items()}
    ranked = sorted(shares, key=shares.__getitem__)
    _keep(placed, units, ranked, (1 - rule.test_fraction - rule.val_fraction) / 2)
    if rule.test_fraction > 0:
        _give_one(placed, units, ranked, "test")
    if rule.val_fraction > 0:
        _give_one(placed, units, ranked, "val")
    return [
        replace(sample, split=placed[unit_of(sample)]) if sample.split == "train" else sample
        for sample in samples
    ]


def _keep(
    placed: dict[str, Split],
    units: Mapping[str, Sequence[Sample]],
    ranked: Sequence[str],
    share: float,
) -> None:
    """Bring units back to train, the highest first, until every class has such a share there."""
    counts = Counter(sample.label for unit in units.values() for sample in unit)
    kept = _counts(placed, units, "train")
    for unit in reversed(ranked):
        labels = {sample.label for sample in units[unit]}
        if placed[unit] != "train" and any(kept[label] < share * counts[label] for label in labels):
            placed[unit] = "train"
            kept.update(sample.label for sample in units[unit])


def _give_one(
    placed: dict[str, Split],
    units: Mapping[str, Sequence[Sample]],
    ranked: Sequence[str],
    split: Split,
) -> None:
    """To `split`, of every class that has nothing there, the lowest unit that leaves its classes
    something to train on."""
    kept, given = _counts(placed, units, "train"), _counts(placed, units, split)
    for unit in ranked:
        sizes = Counter(sample.label for sample in units[unit])
        if (
            placed[unit] == "train"
            and any(not given[label] for label in sizes)
            and all(kept[label] > size for label, size in sizes.items())
        ):
            placed[unit] = split
            kept.subtract(sizes)
            given.update(sizes)


def _counts(
    placed: Mapping[str, Split], units: Mapping[str, Sequence[Sample]], split: Split
) -> Counter[str]:
    """Images of each class in a split."""
    return Counter(
        sample.label for unit, where in placed.items() if where == split for sample in units[unit]
    )


def split_exactly(samples: Sequence[Sample], rule: SplitRule) -> list[Sample]:
    """Move so large a share of each class as the rule says; of a class that grows, another one."""
    samples = split_off(samples, "test", rule.test_fraction, rule.seed)
    of_the_rest = rule.val_fraction / (1 - rule.test_fraction)
    return split_off(samples, "val", of_the_rest, rule.seed)


def split_off(samples: Sequence[Sample], split: Split, fraction: float, seed: int) -> list[Sample]:
    """Move a fraction of each class from train to `split`, chosen by content, not by name.

    Units are ranked by SHA-256 of seed and content (or group), so the same images split the same
    way wherever they lie. Each class keeps at least one training image and, if it can, gives one.
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
