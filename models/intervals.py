"""Confidence intervals. Imports nothing large."""

from __future__ import annotations

import math

# Of the normal distribution: 95% lie within.
_Z95 = 1.959963984540054


def wilson(share: float, count: int, z: float = _Z95) -> tuple[float, float]:
    """Wilson's score interval of a share (Wilson, J. Am. Stat. Assoc. 22, 1927).

    Args:
        share: 0..1, of `count` trials, of which there is one at least.
        z: by default for 95%.
    """
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    spread = math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    half = z / (1 + z * z / count) * spread
    return max(0.0, centre - half), min(1.0, centre + half)
