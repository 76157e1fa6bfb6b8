"""A test of whether images in production are distributed as the reference's, which may be looked
at after every image, for ever.

Promise: if they are, it ever raises an alarm with a probability of at most `false_alarm_rate`,
whatever the distribution is, however many images come, and although the reference is but a sample.

How: conformal test martingales (Vovk, Gammerman & Shafer 2022, Algorithmic Learning in a Random
World, 2nd ed., ch. 8; for retraining: Vovk et al. 2021, "Retrain or not retrain",
arXiv:2102.10439). Each image gets its rank among the reference and all images before it, ties
broken at random. If all of them are exchangeable, these p-values are independent and uniform,
exactly, for a reference of any size. A gambler bets against that with functions that average 1, so
his capital is a nonnegative martingale that begins with 1, and by Ville's inequality it ever
reaches 1/a with a probability of at most a. A test that took the reference for the truth would
sooner or later find that it isn't, and raise an alarm on any traffic.

A change comes late, when what was bet from the start is lost. So a part of the capital waits and is
laid in at later images: the mixture of martingales over their starts is one, too. Each category (a
label, a format) is ranked against the others, by itself. Features and categories are corrected for
by Bonferroni, since their p-values depend on each other.

Images that are handed over at once are put into a random order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Images between two starts: fewer would make each start's share smaller, more would begin later.
_START_EVERY = 16
# Rows of what is kept at once: 256 images of 1,000 labels and 10 bets are 20 MB.
_BLOCK = 256
# Capital is bounded, or it would be infinite after some thousand images of a drift.
_MOST = 1e100
_TINY = 1e-12


def bets(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """What each bet pays for a p-value: on small ones, on large ones, on both ends, on the middle.

    Powers of p find a few images of an unusual kind (Vovk's "power martingales"), slopes a shift of
    all of them. Each averages 1 over 0..1, and all are above 0.

    Args:
        p: float64[...], in 0..1.

    Returns:
        float64[...,E].
    """
    p = np.clip(p, _TINY, 1 - _TINY)
    slope = 1 - 2 * p
    ends = 6 * p * p - 6 * p + 1
    paid: NDArray[np.float64] = np.stack(
        [
            0.5 * p**-0.5, 0.2 * p**-0.8,
            0.5 * (1 - p) ** -0.5, 0.2 * (1 - p) ** -0.8,
            1 + 0.8 * slope, 1 - 0.8 * slope, 1 + 0.25 * slope, 1 - 0.25 * slope,
            1 + 0.9 * ends, 1 - 0.9 * ends,
        ],
        axis=-1,
    )  # fmt: skip
    return paid


_BETS = bets(np.zeros(())).shape[-1]


def waiting(starts: int) -> float:
    """The share of the capital that is still to be laid in after so many starts: half of it is in
    from the first image on, and the rest follows so slowly that it never runs out."""
    return 1 / (2 + math.log1p(starts - 1)) if starts else 1.0


@dataclass
class Ranks:
    """The images so far, by bin: what a new one is ranked among. counts: int64[B]."""

    counts: NDArray[np.int64]
    is_ordinal: bool

    @property
    def streams(self) -> int:
        """How many p-values an image gets: of categories one each, of two only one."""
        bins = len(self.counts)
        return 1 if self.is_ordinal or bins == 2 else bins

    def rank(self, bins: NDArray[np.intp], rng: np.random.Generator) -> NDArray[np.float64]:
        """p-values float64[N,S] of images in these bins, intp[N], which count from now on."""
        arrived = np.zeros((len(bins), len(self.counts)), np.int64)
        arrived[np.arange(len(bins)), bins] = 1
        counts = self.counts + arrived.cumsum(axis=0)  # [N,B], each with its own image
        self.counts = counts[-1].copy()
        total = counts.sum(axis=1)
        ties = 1 - rng.random(len(bins))  # 0 < ties <= 1
        own = counts[np.arange(len(bins)), bins]
        if self.streams == 1:
            below = (counts * (np.arange(counts.shape[1]) < bins[:, None])).sum(axis=1)
            ranks: NDArray[np.float64] = (below + ties * own) / total
            return ranks[:, None]
        # The category's own images come first, so a small p-value says that there are more of it.
        others = total[:, None] - counts
        p: NDArray[np.float64] = (counts + ties[:, None] * others) / total[:, None]
        p[np.arange(len(bins)), bins] = ties * own / total
        return p


class SequentialTest:
    """The test of one feature.

    Args:
        reference: int64[B], the histogram of the reference.
        is_ordinal: whether the bins have an order.
    """

    def __init__(self, reference: NDArray[np.int64], *, is_ordinal: bool) -> None:
        self._ranks = Ranks(reference.astype(np.int64), is_ordinal)
        self._capital = np.zeros((self._ranks.streams, _BETS))  # what was laid in, and its winnings
        self._images = 0
        self._most = np.ones(self._ranks.streams)

    @property
    def images(self) -> int:
        """How many were tested."""
        return self._images

    @property
    def evidence(self) -> float:
        """An e-value against no change: the capital that was made of 1, the best category's divided
        by their number."""
        waits = waiting(-(-self._images // _START_EVERY))
        return float((waits + self._capital.mean(axis=1)).max()) / self._ranks.streams

    @property
    def most_evidence(self) -> float:
        """The most that `evidence` has ever been. 1/a or more happens with a probability of at most
        a if nothing changed: 1 over it is a p-value."""
        return float(self._most.max()) / self._ranks.streams

    def add(self, counts: NDArray[np.integer], rng: np.random.Generator) -> None:
        """Test images that came since, int64[B]."""
        bins = np.repeat(np.arange(len(counts)), counts)
        rng.shuffle(bins)
        self.add_in_order(bins, rng)

    def add_in_order(self, bins: NDArray[np.intp], rng: np.random.Generator) -> None:
        """As `add`, for images whose order is known, intp[N]; it mustn't depend on the values."""
        for first in range(0, len(bins), _BLOCK):
            p = self._ranks.rank(bins[first : first + _BLOCK], rng)
            self._bet(bets(p))

    def _bet(self, paid: NDArray[np.float64]) -> None:
        """float64[N,S,E]"""
        done = 0
        while done < len(paid):
            inside = self._images % _START_EVERY
            starts = self._images // _START_EVERY
            if not inside:
                self._capital += waiting(starts) - waiting(starts + 1)
            some = paid[done : done + _START_EVERY - inside]
            path = np.minimum(self._capital * some.cumprod(axis=0), _MOST)
            total = waiting(starts + 1) + path.mean(axis=-1)  # [n,S]
            self._most = np.maximum(self._most, total.max(axis=0))
            self._capital = path[-1]
            self._images += len(some)
            done += len(some)

    def state(self) -> dict[str, Any]:
        """Arrays to go on from, see `restore`."""
        return {
            "counts": self._ranks.counts,
            "capital": self._capital,
            "images": np.int64(self._images),
            "most": self._most,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where another test of the same reference stood."""
        self._ranks.counts = np.asarray(state["counts"])
        self._capital = np.asarray(state["capital"])
        self._images = int(state["images"])
        self._most = np.asarray(state["most"])
