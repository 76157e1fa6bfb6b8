"""Inputs of the v2 protocol, as JSON has them."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray


def image_input(*images: bytes, **changes: Any) -> dict[str, Any]:
    data = [base64.b64encode(image).decode() for image in images]
    return {"name": "image", "datatype": "BYTES", "shape": [len(data)], "data": data} | changes


def pixel_input(pixels: NDArray[np.uint8], data: Any = None, **changes: Any) -> dict[str, Any]:
    """data: in the place of the pixels."""
    whole = {"name": "pixels", "datatype": "UINT8", "shape": list(pixels.shape)}
    return whole | {"data": pixels.tolist() if data is None else data} | changes
