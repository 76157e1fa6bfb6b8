"""Times in constant memory: a histogram whose bins grow by a constant factor."""

from __future__ import annotations

import math

from pydantic import BaseModel, Field

# A quantile is off by 1% at most, half a bin; from 1 us to 1000 s there are about 1,000 of them.
_GROWTH = 1.02
_LEAST_S, _MOST_S = 1e-6, 1e3


class Times(BaseModel):
    """Counts by the logarithm of the time. `bins`: number of a bin -> how many, empty ones left
    out, so that few times are few bytes of JSON."""

    bins: dict[int, int] = Field(default_factory=dict)

    @property
    def count(self) -> int:
        return sum(self.bins.values())

    def add(self, seconds: float) -> None:
        number = round(math.log(min(max(seconds, _LEAST_S), _MOST_S), _GROWTH))
        self.bins[number] = self.bins.get(number, 0) + 1

    def merge(self, other: Times) -> None:
        for number, count in other.bins.items():
            self.bins[number] = self.bins.get(number, 0) + count

    def quantile(self, share: float) -> float | None:
        """Seconds that this share of the times, 0..1, don't exceed; None: there is no time."""
        wanted = share * self.count
        passed = 0
        for number in sorted(self.bins):
            passed += self.bins[number]
            if passed >= wanted:
                return _GROWTH**number
        return None

    @property
    def median_s(self) -> float | None:
        return self.quantile(0.5)
