"""How sure a share is. By hand: importing `scipy.stats` takes half a second of every run."""

from __future__ import annotations

import math

from scipy import special

_CONFIDENCE = 0.95


def wilson_interval(right: int, count: int) -> tuple[float, float]:
    """The 95% interval of the share `right / count`, both ends 0..1; Wilson 1927, without a
    correction for continuity.

    Args:
        count: from 1.
    """
    z = float(special.ndtri((1 + _CONFIDENCE) / 2))
    share, width = right / count, z**2 / count
    centre = (share + width / 2) / (1 + width)
    half = z * math.sqrt(share * (1 - share) / count + width / (4 * count)) / (1 + width)
    return max(0.0, centre - half), min(1.0, centre + half)
