"""When an answer is to be trusted: a confidence that is high enough, of an image that isn't unlike
those that the model was trained on."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from models.bundle.json_file import JsonFile


class Acceptance(JsonFile):
    """`acceptance.json`.

    target_precision: how often accepted answers were to be right on the validation images, 0..1.
    min_confidence: the smallest probability of the first label that is accepted; None: no
    confidence reached the precision, so nothing is.
    """

    target_precision: float = Field(gt=0, le=1)
    min_confidence: float | None = Field(ge=0, le=1)

    def accepts(self, probability: float, distance: float | None) -> bool:
        """Whether to trust an answer.

        Args:
            probability: of the first label. distance: see `models.export.distance_graph`, 1 is the
                limit; None where the model has none.
        """
        if self.min_confidence is None or probability < self.min_confidence:
            return False
        return distance is None or distance <= 1

    def accepted(
        self, probabilities: NDArray[np.floating[Any]], distances: NDArray[np.floating[Any]] | None
    ) -> NDArray[np.bool_]:
        """`accepts` of each of N answers: of float[N] and float[N], bool[N]."""
        each = [None] * len(probabilities) if distances is None else distances.tolist()
        pairs = zip(probabilities.tolist(), each, strict=True)
        return np.array([self.accepts(*pair) for pair in pairs], np.bool_)
