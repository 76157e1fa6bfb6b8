"""Whether one model is better than another on the same validation images, and how surely."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from models.files import staged_file

# Of the interval of the difference: what is below its lower end is luck once in forty.
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Validation:
    """What a model says of the validation images.

    Args:
        probabilities: float32[N,C], calibrated. targets: int64[N].
    """

    probabilities: NDArray[np.float32]
    targets: NDArray[np.int64]

    @property
    def accuracy(self) -> float:
        return float((self.probabilities.argmax(axis=1) == self.targets).mean())

    @property
    def errors(self) -> NDArray[np.float64]:
        """float64[N], the squared errors of an image's probabilities, 0 to 2 (Brier 1950).

        Not whether it is right: of a hundred images, of which few change sides, that tells nothing.
        """
        wanted = np.eye(self.probabilities.shape[1])[self.targets]
        errors: NDArray[np.float64] = np.square(self.probabilities - wanted).sum(axis=1)
        return errors

    @property
    def score(self) -> tuple[float, float]:
        """The better one has the higher: accuracy first, as of epochs, then error."""
        return (self.accuracy, -float(self.errors.mean()))

    def write(self, path: Path) -> None:
        """In one step."""
        with staged_file(path) as staging, staging.open("wb") as file:
            np.savez(file, probabilities=self.probabilities, targets=self.targets)

    @classmethod
    def read(cls, path: Path) -> Validation:
        with np.load(path, allow_pickle=False) as arrays:
            return cls(arrays["probabilities"], arrays["targets"])


@dataclass(frozen=True)
class Gain:
    """By how much the mean error is smaller than another model's on the same images, with its 95%
    interval (paired, Student's t); NaN where there are too few images for one."""

    error: float
    low: float
    high: float

    @property
    def pays(self) -> bool:
        return self.low > 0


def gain(before: Validation, now: Validation) -> Gain:
    differences = before.errors - now.errors
    if len(differences) < 2:
        return Gain(float(differences.mean()), np.nan, np.nan)
    mean, spread = differences.mean(), stats.sem(differences)
    half = float(spread * stats.t.ppf((1 + _CONFIDENCE) / 2, len(differences) - 1))
    return Gain(float(mean), float(mean) - half, float(mean) + half)
