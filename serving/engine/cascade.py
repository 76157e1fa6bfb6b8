"""Two engines as one: the second answers where the first can't tell (`models.bundle.cascade`)."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from models.bundle.cascade import merge, unsure
from serving.engine.load import Engine


class CascadeEngine:
    """See `Engine`. `rerun_images`: how many images the second one has run, from any thread.

    Args:
        first: runs each batch; what `provider` says.
        second: runs what is left of it, 0..N images, and pads them to a size that it has captured
            where it has such sizes.
        margin: see `models.bundle.cascade.Cascade`.
    """

    def __init__(self, first: Engine, second: Engine, margin: float) -> None:
        self._first, self._second, self._margin = first, second, margin
        self.provider = first.provider
        self.rerun_images = 0
        self._counting = Lock()

    def __call__(
        self, images: Sequence[NDArray[np.uint8]], options: ort.RunOptions | None = None
    ) -> list[NDArray[np.float32]]:
        answers = self._first(images, options)
        rows = unsure(answers[0], self._margin)
        if not rows.any():
            return answers
        left = [image for image, is_left in zip(images, rows, strict=True) if is_left]
        again = self._second(left, options)
        with self._counting:
            self.rerun_images += len(left)
        return [merge(*pair, rows) for pair in zip(answers, again, strict=True)]
