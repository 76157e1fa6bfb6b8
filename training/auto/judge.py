"""Whether one model is better than another on the same validation images, and how surely."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import special

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

    def write(self, path: Path) -> None:
        """In one step."""
        with staged_file(path) as staging, staging.open("wb") as file:
            np.savez(file, probabilities=self.probabilities, targets=self.targets)

    @classmethod
    def read(cls, path: Path) -> Validation:
        with np.load(path, allow_pickle=False) as arrays:
            return cls(arrays["probabilities"], arrays["targets"])


# By how much the mean error is lower than another model's on the same images, and the ends of the
# 95% interval of that; None where there are too few images for one.
Gain = tuple[float, float | None, float | None]


def gain(before: Validation, now: Validation) -> Gain:
    """Paired, by Student's t."""
    differences = before.errors - now.errors
    mean = float(differences.mean())
    if len(differences) < 2:
        return (mean, None, None)
    # Not from scipy.stats, which takes half a second to import.
    quantile = special.stdtrit(len(differences) - 1, (1 + _CONFIDENCE) / 2)
    half = float(differences.std(ddof=1) / math.sqrt(len(differences)) * quantile)
    return (mean, mean - half, mean + half)


def pays(gained: Gain) -> bool:
    """Whether it is more than luck would give."""
    _, low, _ = gained
    return low is not None and low > 0


def undecided(gained: Gain) -> bool:
    """Whether luck may have given it, in whichever direction."""
    _, low, high = gained
    return low is None or high is None or low <= 0 <= high
