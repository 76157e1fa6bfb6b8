"""An image under its heat map."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# From faint to strong, as the service's page has it (serving/http/ui/heat.js).
_RAMP = np.array(
    [[255, 240, 120], [253, 174, 56], [227, 74, 51], [158, 30, 84], [84, 10, 92]], np.float32
)
_STRENGTH = 0.7


def overlaid(image: NDArray[np.uint8], heat_map: NDArray[np.float32]) -> NDArray[np.uint8]:
    """An image under its heat map.

    Args:
        image: uint8[S,S,3]. heat_map: float32[h,w], 0..1.

    Returns:
        uint8[S,S,3].
    """
    size = (image.shape[1], image.shape[0])
    enlarged = Image.fromarray(heat_map).resize(size, Image.Resampling.BILINEAR)
    values = np.asarray(enlarged).clip(0, 1)[..., None]
    steps = np.linspace(0, 1, len(_RAMP))
    colours = np.concatenate([np.interp(values, steps, channel) for channel in _RAMP.T], axis=2)
    opacity = _STRENGTH * np.minimum(1, 1.25 * values)
    blended: NDArray[np.float64] = image * (1 - opacity) + colours * opacity
    return blended.round().astype(np.uint8)
