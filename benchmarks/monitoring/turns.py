"""Two states of a service that take turns, and what their times say: quantiles of all requests of a
state, and by how much one is larger than the other's.

A single block's p99 is its largest few requests, of which the machine has its part. So turns are
short, a pair of them is compared only where nobody else computed, requests during which the machine
stood still are left out of both, and the interval of a ratio is a bootstrap over pairs: spikes that
come together count once, not as independent requests.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

# Of a core. 0.07 of one over 6 s was a program that started in one second of them, behind which
# requests took up to five times as long.
MAX_OTHERS_CORES = 0.05
_RESAMPLES = 2000


@dataclass(frozen=True)
class Turn:
    """times_ms: of its requests. stalled_ms: of those that are left out, because the machine stood
    still (`benchmarks.monitoring.stalls`). others_cores: what other processes, or the hypervisor,
    took."""

    times_ms: list[float]
    others_cores: float
    stalled_ms: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Pair:
    """Two turns beside each other."""

    without: Turn
    beside: Turn

    @property
    def is_quiet(self) -> bool:
        return max(self.without.others_cores, self.beside.others_cores) <= MAX_OTHERS_CORES

    @classmethod
    def read(cls, saved: dict[str, Any]) -> Self:
        return cls(Turn(**saved["without"]), Turn(**saved["beside"]))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Ratio:
    """One quantile's, with the bounds between which 95% of the resampled pairs have it."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def order(pairs: int) -> Iterator[tuple[str, str]]:
    """Which state comes first in each pair: in turns, so that a machine that gets slower favours
    neither, and the state changes once a pair."""
    for number in range(pairs):
        yield ("without", "beside") if number % 2 == 0 else ("beside", "without")


def quantile(turns: Sequence[Turn], percent: float) -> float:
    """Of all requests together, in ms: a time that one of them took."""
    return _quantile([np.asarray(turn.times_ms) for turn in turns], percent)


def ratio(above: Sequence[Turn], below: Sequence[Turn], percent: float) -> Ratio:
    """A quantile of `above` by that of `below`. Turns at the same place are a pair.

    Raises:
        ValueError: there are none.
    """
    if not above or len(above) != len(below):
        raise ValueError(f"{len(above)} turns against {len(below)}, there must be pairs")
    upper, lower = ([np.asarray(turn.times_ms) for turn in turns] for turns in (above, below))
    draws = np.random.default_rng(0).integers(0, len(upper), (_RESAMPLES, len(upper)))
    found = [
        _quantile([upper[i] for i in draw], percent) / _quantile([lower[i] for i in draw], percent)
        for draw in draws
    ]
    low, high = np.percentile(found, [2.5, 97.5])
    return Ratio(_quantile(upper, percent) / _quantile(lower, percent), float(low), float(high))


def _quantile(turns: Sequence[NDArray[np.float64]], percent: float) -> float:
    return float(np.percentile(np.concatenate(turns), percent, method="higher"))
