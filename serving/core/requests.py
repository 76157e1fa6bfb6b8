"""What the core is asked and what it answers: plain classes without transport or protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from serving.core.errors import RequestError
from serving.core.explainer import HeatMap
from serving.core.pool import ServedModel
from serving.core.statistics import Timings
from serving.engine.session import ModelOutput


@dataclass(slots=True)
class Prediction:
    """One label with its column in the output and its probability, 0..1."""

    label: str
    index: int
    probability: float


@dataclass(frozen=True)
class InferResponse:
    """Of the model that gave it: for each image what it says, or why it says nothing.

    heat_maps: for each image that has an answer, where they were asked for.
    """

    model: ServedModel
    rows: list[ModelOutput | RequestError]
    timings: Timings
    heat_maps: list[HeatMap] = field(default_factory=list)

    def probabilities(self) -> NDArray[np.float32]:
        """float32[N,C].

        Raises:
            RequestError: see `outputs`.
        """
        return np.stack([row.probabilities for row in self.outputs()])

    def outputs(self) -> list[ModelOutput]:
        """What the model says of all images.

        Raises:
            RequestError: of the first image without an answer.
        """
        rows = []
        for row in self.rows:
            if isinstance(row, RequestError):
                raise row
            rows.append(row)
        return rows


def top(
    labels: Sequence[str], probabilities: NDArray[np.float32], top_k: int, threshold: float = 0.0
) -> list[Prediction]:
    """The most probable labels of one row, best first: at most `top_k`, none below `threshold`."""
    order = (-probabilities).argsort(kind="stable")[:top_k]
    best = zip(order.tolist(), probabilities[order].tolist(), strict=True)
    return [
        Prediction(labels[i], i, probability) for i, probability in best if probability >= threshold
    ]
