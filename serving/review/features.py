"""What the served model's FC2 makes of captured images, kept while it serves."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from models.errors import UserError
from models.imaging.image import load_image
from review.pool import Item
from serving.core.served_model import ServedModel

# In the words of `vgg19 probe`.
DEPTH = "FC2"


class Features:
    """Of one model at a time, and one thread. They are computed between requests
    (`ServedModel.features`), once for each image.

    looked_at: of how many images they are there, of those that the last call of `of` was given.
    """

    def __init__(self) -> None:
        self.looked_at = 0
        self._version = ""
        self._rows: dict[str, NDArray[np.float16]] = {}

    def of(
        self, items: Sequence[Item], model: ServedModel, goes_on: Callable[[], bool]
    ) -> tuple[list[Item], dict[str, NDArray[np.float16]]] | None:
        """The images that can be read, and float16[N,K] of them by depth, in their order; nothing
        by no depth where the model gives no features; None: it was ended before.

        Args:
            goes_on: asked before each image.
        """
        if model.features is None:
            return list(items), {}
        if model.version != self._version:
            self._version, self._rows = model.version, {}
        kept: dict[str, NDArray[np.float16]] = {}
        for self.looked_at, item in enumerate(items):
            if not goes_on():
                return None
            row = self._rows.get(item.image)
            if row is None:
                row = _row(item, model)
            if row is not None:
                kept[item.image] = row
        self._rows = kept
        readable = [item for item in items if item.image in kept]
        if not readable:
            return readable, {}
        return readable, {DEPTH: np.stack([kept[item.image] for item in readable])}


def _row(item: Item, model: ServedModel) -> NDArray[np.float16] | None:
    """float16[K]; None: the image can't be read, or is gone."""
    assert model.features is not None
    try:
        pixels = load_image(item.path, model.spec.preprocessing)
    except (UserError, OSError):
        return None
    largest = float(np.finfo(np.float16).max)
    values = model.features(pixels).clip(-largest, largest)
    return values.astype(np.float16)
