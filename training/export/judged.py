"""What a graph says of images, whether its bundle trusts that included, and how far that is from
what float32 says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from models.bundle.acceptance import Acceptance
from models.bundle.bundle import ACCEPTANCE_FILE, DISTANCE_FILE, DISTANCE_OUTPUT, FEATURES_OUTPUT
from models.bundle.cascade import merge
from models.export.onnx_variants import Agreement, Answers, agreement


@dataclass(frozen=True)
class Judged:
    """Of N images. probabilities: float32[N,C]. distances: float32[N], 1 is the limit, see
    `models.export.distance_graph`. accepted: bool[N], whether the answer is to be trusted. None
    each where the bundle doesn't say."""

    probabilities: NDArray[np.float32]
    distances: NDArray[np.float32] | None = None
    accepted: NDArray[np.bool_] | None = None

    def at(self, places: slice | NDArray[np.intp] | NDArray[np.bool_]) -> Judged:
        """Of some of the images."""
        return Judged(
            self.probabilities[places],
            None if self.distances is None else self.distances[places],
            None if self.accepted is None else self.accepted[places],
        )

    def merged(self, again: Judged, rows: NDArray[np.bool_]) -> Judged:
        """With the True `rows` from `again`, which has these only, as a cascade answers."""
        distances, accepted = self.distances, self.accepted
        if distances is not None and again.distances is not None:
            distances = merge(distances, again.distances, rows)
        if accepted is not None and again.accepted is not None:
            accepted = merge(accepted, again.accepted, rows)
        return Judged(merge(self.probabilities, again.probabilities, rows), distances, accepted)


class Trust:
    """Which answers a bundle accepts: what the service decides (`serving.engine.session`)."""

    def __init__(self, bundle: Path) -> None:
        acceptance, distance = bundle / ACCEPTANCE_FILE, bundle / DISTANCE_FILE
        self._acceptance = Acceptance.read(acceptance) if acceptance.exists() else None
        self._distances = (
            ort.InferenceSession(distance, providers=["CPUExecutionProvider"])
            if distance.exists()
            else None
        )

    def __call__(self, answers: Answers) -> Judged:
        distances = None
        if self._distances is not None and answers.features is not None:
            (distances,) = self._distances.run(
                [DISTANCE_OUTPUT], {FEATURES_OUTPUT: answers.features}
            )
        accepted = None
        if self._acceptance is not None:
            accepted = self._acceptance.accepted(answers.probabilities.max(axis=1), distances)
        return Judged(answers.probabilities, distances, accepted)


def compare(expected: Judged, actual: Judged) -> Agreement:
    """Of the same images by two graphs; a distance that is NaN differs by NaN.

    Distances beyond the limit, 1, are compared in relation to float32's: how far away an image is
    that is refused anyway decides nothing.
    """
    found = agreement(expected.probabilities, actual.probabilities)
    if expected.accepted is not None and actual.accepted is not None:
        found = replace(found, accepted=float((expected.accepted == actual.accepted).mean()))
    if expected.distances is not None and actual.distances is not None:
        differences = np.abs(expected.distances - actual.distances)
        largest = float((differences / np.maximum(expected.distances, 1)).max())
        found = replace(found, max_distance_difference=largest)
    return found


def worst(found: Sequence[Agreement]) -> Agreement:
    """The worst of each figure, of one graph on several engines."""
    accepted = [one.accepted for one in found if one.accepted is not None]
    known = [one.max_distance_difference for one in found]
    distances = [one for one in known if one is not None]
    return Agreement(
        min(one.top1 for one in found),
        max(one.max_probability_difference for one in found),
        min(accepted, default=None),
        max(distances, default=None),
    )
