"""Histograms of the last images, by count and by time, in memory that doesn't grow."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Parts of the window by count: it holds up to a tenth more than was asked for.
_PARTS = 10
HOURS = 24
# A week, of which one number is kept for each feature and hour.
HISTORY_HOURS = 7 * 24
_HOUR_S = 3600


class Ring:
    """The histograms of the last few steps, the newest last; int64[K,L], with images int64[K]."""

    def __init__(self, steps: int, size: int) -> None:
        self.counts = np.zeros((steps, size), np.int64)
        self.images = np.zeros(steps, np.int64)

    def advance(self, steps: int = 1) -> None:
        """Begin with new steps, and forget as many."""
        steps = min(steps, len(self.images))
        for array in (self.counts, self.images):
            array[:-steps] = array[steps:].copy()
            array[-steps:] = 0

    def add(self, counts: NDArray[np.int64], images: int) -> None:
        """To the newest step."""
        self.counts[-1] += counts
        self.images[-1] += images

    def total(self, images: int | None = None) -> tuple[NDArray[np.int64], int]:
        """Histogram int64[L] and images of all steps, or of as many of the newest as have this many
        images."""
        steps = len(self.images)
        if images is not None:
            steps = 1 + int(np.searchsorted(self.images[::-1].cumsum(), images))
        return self.counts[-steps:].sum(axis=0), int(self.images[-steps:].sum())


class Windows:
    """The last `images` images, and those of the last 24 hours, each with up to a part more: a
    tenth of the images, or what one call brought; or the hour.

    Args:
        size: L, of a histogram.
    """

    def __init__(self, size: int, images: int) -> None:
        self._images = images
        self._part = max(1, images // _PARTS)
        self._recent = Ring(_PARTS + 1, size)
        self._day = Ring(HOURS, size)
        self._hour = 0

    def add(self, counts: NDArray[np.int64], images: int, now: float) -> None:
        """Count images that came about `now`, in seconds since 1970."""
        hour = int(now // _HOUR_S)
        if hour > self._hour:
            self._day.advance(hour - self._hour)
            self._hour = hour
        self._day.add(counts, images)
        if self._recent.images[-1] >= self._part:
            self._recent.advance()
        self._recent.add(counts, images)

    def recent(self) -> tuple[NDArray[np.int64], int]:
        """The window by count: histogram int64[L], and images."""
        return self._recent.total(self._images)

    def day(self) -> tuple[NDArray[np.int64], int]:
        """The window by time: histogram int64[L], and images."""
        return self._day.total()

    def state(self) -> dict[str, Any]:
        """Arrays to go on from, see `restore`."""
        return {
            "recent_counts": self._recent.counts,
            "recent_images": self._recent.images,
            "day_counts": self._day.counts,
            "day_images": self._day.images,
            "hour": np.int64(self._hour),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self._recent.counts, self._recent.images = state["recent_counts"], state["recent_images"]
        self._day.counts, self._day.images = state["day_counts"], state["day_images"]
        self._hour = int(state["hour"])


class History:
    """What each of the last hours came to: float64[K,V], the newest last; NaN where nothing did."""

    def __init__(self, values: int) -> None:
        self.rows = np.full((HISTORY_HOURS, values), np.nan)
        self._hour = 0

    def set(self, values: NDArray[np.float64], now: float) -> None:
        """Of the hour of `now`, in seconds since 1970; in place of what it had."""
        hour = int(now // _HOUR_S)
        steps = min(hour - self._hour, HISTORY_HOURS)
        if steps > 0:
            self.rows[:-steps] = self.rows[steps:].copy()
            self.rows[-steps:] = np.nan
            self._hour = hour
        self.rows[-1] = values

    def since_first(self) -> tuple[list[int], NDArray[np.float64]]:
        """The hours since the first that has values: when each began, and its values."""
        known = np.flatnonzero(~np.isnan(self.rows).all(axis=1))
        if not len(known):
            return [], self.rows[:0]
        first = int(known[0])
        begin = self._hour - HISTORY_HOURS + 1 + first
        rows = self.rows[first:]
        return [(begin + i) * _HOUR_S for i in range(len(rows))], rows

    def state(self) -> dict[str, Any]:
        return {"rows": self.rows, "hour": np.int64(self._hour)}

    def restore(self, state: dict[str, Any]) -> None:
        self.rows, self._hour = state["rows"], int(state["hour"])
