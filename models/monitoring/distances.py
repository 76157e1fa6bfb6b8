"""How far apart two histograms are: the population stability index and the Jensen-Shannon distance.

Both are computed on groups of bins that the reference alone decides: for what has an order about
ten of equal mass, as is usual for the index.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from models.monitoring.features import Feature

# Usual readings (Siddiqi 2006, Credit Risk Scorecards): below 0.1 stable, above 0.25 another
# population. They are for samples so large that `psi_noise` is next to nothing.
_GROUPS = 10
# Jeffreys' prior: an empty group would make the index infinite.
_PSEUDO_COUNT = 0.5


@dataclass(frozen=True)
class Groups:
    """Bins put together.

    numbers: intp[B], the group of each bin. names: of the groups, for people.
    """

    numbers: NDArray[np.intp]
    names: tuple[str, ...]

    def sums(self, counts: NDArray[np.integer]) -> NDArray[np.int64]:
        """int64[G] of int64[B]."""
        return np.bincount(self.numbers, counts, len(self.names)).astype(np.int64)


def group(feature: Feature, reference: NDArray[np.integer]) -> Groups:
    """Groups of a feature's bins: of what has an order, neighbours with about a tenth of the
    reference each, and what lies below and above all of it; each category by itself.

    Args:
        reference: int64[B], its histogram.
    """
    if not feature.is_ordinal:
        return Groups(np.arange(feature.bins), feature.categories)
    starts = np.zeros(feature.bins, np.intp)
    occupied = np.flatnonzero(reference)
    if len(occupied):
        first, last = int(occupied[0]), int(occupied[-1])
        starts[_starts(reference, first, last)] = 1
        starts[0] = 0
    numbers = starts.cumsum()
    return Groups(numbers, tuple(_names(feature.edges, numbers)))


def _starts(reference: NDArray[np.integer], first: int, last: int) -> list[int]:
    """The bins that groups begin with; `last` is the last bin that isn't empty."""
    least = reference.sum() / _GROUPS
    starts, inside = [first], 0
    for place in range(first, last + 1):
        count, left = reference[place], reference[place:].sum()
        # A bin that is a group by itself isn't put together with what lies beside it.
        is_full = inside >= least or (count >= least and place > starts[-1])
        if is_full and left >= least / 2:
            starts.append(place)
            inside = 0
        inside += count
    return [*starts, last + 1] if last + 1 < len(reference) else starts


def _names(edges: Sequence[float], numbers: NDArray[np.intp]) -> list[str]:
    cuts = [edge for edge, one, next_ in zip(edges, numbers, numbers[1:], strict=False)
            if one != next_]  # fmt: skip
    if not cuts:
        return ["all"]
    texts = _numbers(cuts)
    between = [f"{low} to {high}" for low, high in pairwise(texts)]
    return [f"below {texts[0]}", *between, f"from {texts[-1]}"]


def _numbers(cuts: Sequence[float]) -> list[str]:
    """With as many digits as tell them from each other, and a confidence from 1."""
    has_one = any(math.isclose(cut, 1) for cut in cuts)  # 10**0.0 of a grid may be a bit off
    for digits in range(3, 9):
        texts = [f"{cut:.{digits}g}" for cut in cuts]
        if len(set(texts)) == len(cuts) and ("1" not in texts or has_one):
            break
    return texts


def psi(counts: NDArray[np.integer], reference: NDArray[np.integer]) -> float:
    """The population stability index, the sum of `psi_parts`: 0 for equal shares.

    Args:
        counts, reference: int64[G].
    """
    return float(psi_parts(counts, reference).sum())


def psi_parts(counts: NDArray[np.integer], reference: NDArray[np.integer]) -> NDArray[np.float64]:
    """float64[G], none below 0: what each group adds to the index, (q - r) ln(q / r) of its
    shares."""
    q, r = _smoothed(counts), _smoothed(reference)
    parts: NDArray[np.float64] = (q - r) * np.log(q / r)
    return parts


def psi_noise(images: int, reference_images: int, groups: int) -> float:
    """The index that sampling alone gives on average: for two samples of one distribution it is
    about (1/n + 1/N) times a chi-square of G - 1 degrees of freedom (Yurdakul 2018, Statistical
    Properties of the Population Stability Index)."""
    if not images or not reference_images:
        return 0.0
    return (groups - 1) * (1 / images + 1 / reference_images)


def jensen_shannon(counts: NDArray[np.integer], reference: NDArray[np.integer]) -> float:
    """The Jensen-Shannon distance: the root of the divergence in bits, 0..1, as scipy's
    `jensenshannon` with base 2. 0 where either has no images."""
    if not counts.sum() or not reference.sum():
        return 0.0
    q, r = counts / counts.sum(), reference / reference.sum()
    middle = (q + r) / 2
    divergence = (_divergence(q, middle) + _divergence(r, middle)) / 2
    return float(np.sqrt(max(0.0, divergence)))


@dataclass(frozen=True)
class Comparison:
    """A histogram beside the reference's. images: in it. The others: see the functions of their
    names."""

    images: int
    psi: float
    psi_noise: float
    jensen_shannon: float


def compare(
    counts: NDArray[np.integer], reference: NDArray[np.integer], groups: Groups
) -> Comparison | None:
    """Of bins, int64[B] both; None where either is empty."""
    found, expected = groups.sums(counts), groups.sums(reference)
    images, of_reference = int(found.sum()), int(expected.sum())
    if not images or not of_reference:
        return None
    return Comparison(
        images,
        psi(found, expected),
        psi_noise(images, of_reference, int(((found + expected) > 0).sum())),
        jensen_shannon(found, expected),
    )


def _divergence(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    there = p > 0
    return float((p[there] * np.log2(p[there] / q[there])).sum())


def _smoothed(counts: NDArray[np.integer]) -> NDArray[np.float64]:
    with_prior = counts + _PSEUDO_COUNT
    shares: NDArray[np.float64] = with_prior / with_prior.sum()
    return shares
