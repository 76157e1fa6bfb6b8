"""Which images moved the histograms most."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.monitoring.distances import psi_parts
from models.monitoring.watch import FeatureWatch, Watch

# Features that are named beside an image.
_NAMED = 3


@dataclass(frozen=True)
class Influence:
    """What an image adds to the indexes of all features, and where: (title, group), most first."""

    row: int
    index: float
    places: tuple[tuple[str, str], ...]


def most_influential(watch: Watch, rows: NDArray[np.floating], count: int) -> list[Influence]:
    """The images that lie where there are more than in the reference, most of it first.

    An image's share of a group's part of the index is 1 by the images in the group; where there are
    fewer than in the reference, no image is to blame.

    Args:
        rows: float[N,F] of what is measured, see `models.monitoring.features.measured`.
        count: of images, at most; fewer where fewer add anything.
    """
    bins = watch.layout.bins_of(rows)
    shares = np.stack(
        [_shares(one, bins[:, column]) for column, one in enumerate(watch.features)], axis=1
    )  # [N,F]
    totals = shares.sum(axis=1)
    order = np.argsort(-totals, kind="stable")[:count]
    return [
        Influence(int(row), float(totals[row]), _places(watch, bins[row], shares[row]))
        for row in order
        if totals[row] > 0
    ]


def _shares(one: FeatureWatch, bins: NDArray[np.intp]) -> NDArray[np.float64]:
    """float64[N] of one feature, whose bins are intp[N]."""
    shares = np.zeros(len(bins))
    known = bins >= 0
    if not one.is_there or not known.any():
        return shares
    numbers = one.groups.numbers[bins[known]]
    found = np.bincount(numbers, minlength=len(one.groups.names))
    reference = one.groups.sums(one.reference)
    is_more = found * reference.sum() > reference * found.sum()
    parts = np.where(is_more, psi_parts(found, reference), 0)
    shares[known] = (parts / np.maximum(found, 1))[numbers]
    return shares


def _places(
    watch: Watch, bins: NDArray[np.intp], shares: NDArray[np.float64]
) -> tuple[tuple[str, str], ...]:
    order = np.argsort(-shares, kind="stable")[:_NAMED]
    found = [(watch.features[number], number) for number in order if shares[number] > 0]
    return tuple(
        (one.feature.title, one.groups.names[one.groups.numbers[bins[number]]])
        for one, number in found
    )
