"""What leave-one-out predictions say of labels: how many are right, and which are contradicted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from models.intervals import wilson
from models.linear.ridge import Floats, Integers, Ridge

# A label is suspect where another class's leave-one-out score is higher than its own by more than
# this (scores are regressions on 0 and 1). With 5% of the labels of scikit-learn's 1,797 digits
# shuffled, at block 2 and 3 of two networks, four seeds: precision 84 to 89% and recall 99% above
# 0, 97 to 98 and 99% above 0.2, 98 to 100 and 99% above 0.3, 99 to 100 and 96 to 98% above 0.4. A
# threshold for each class, its mean score (confident learning: Northcutt et al. 2021,
# arXiv:1911.00068), finds 63 to 65% of them, since ridge shrinks the scores.
MARGIN = 0.3
# With less than this share right, most contradicted labels are of hard images. With 5% of the
# labels shuffled, 98% of the suspects were wrong where 94% were right (the digits), and 21% where
# 61% had been before (785 stamps of Tux Paint in 16 classes, random weights, block 3).
_TRUSTED_FROM = 0.8


@dataclass(frozen=True)
class Predictions:
    """What is said of images by a fit that didn't see them.

    Args:
        targets: int64[N], their labels.
        suggested: int64[N], of the other classes the one with the highest score.
        margin: float64[N], that score less the label's own. Above 0, the label is contradicted.
        errors: float64[N], the sum over the classes of the scores' squared errors (0: perfect).
    """

    targets: Integers
    suggested: Integers
    margin: Floats
    errors: Floats

    @cached_property
    def is_right(self) -> NDArray[np.bool_]:
        right: NDArray[np.bool_] = self.margin < 0
        return right

    @property
    def accuracy(self) -> float:
        return float(self.is_right.mean())

    @property
    def error(self) -> float:
        return float(self.errors.mean())

    @property
    def interval(self) -> tuple[float, float]:
        """95%, of the accuracy, Wilson's (1927)."""
        return wilson(self.accuracy, len(self.targets))

    @property
    def balanced_accuracy(self) -> float:
        """The mean over the classes of the share that is right."""
        counts = np.bincount(self.targets)
        right = np.bincount(self.targets, weights=self.is_right)
        return float((right[counts > 0] / counts[counts > 0]).mean())

    def hardest_pairs(self, count: int) -> list[tuple[int, int, int]]:
        """Two classes, and how many images of one got the other's label; the most first."""
        wrong = ~self.is_right
        pairs = Counter(
            tuple(sorted(pair))
            for pair in zip(
                self.targets[wrong].tolist(), self.suggested[wrong].tolist(), strict=True
            )
        )
        ordered = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))
        return [(one, other, images) for (one, other), images in ordered[:count]]


def left_out(ridge: Ridge) -> Predictions:
    """The leave-one-out predictions, in the order of the design's rows' numbers."""
    targets = ridge.design.targets
    parts = [compare(scores, targets[rows]) for rows, scores in ridge.leave_one_out()]
    order = np.argsort(ridge.design.order, kind="stable")
    return Predictions(*(np.concatenate(column)[order] for column in zip(*parts, strict=True)))


def compare(scores: Floats, targets: Integers) -> tuple[Integers, Integers, Floats, Floats]:
    """Scores float64[n,C] -> the fields of `Predictions`."""
    rows = np.arange(len(targets))
    others = scores.copy()
    others[rows, targets] = -np.inf
    suggested = others.argmax(axis=1)
    own = scores[rows, targets]
    errors = np.square(scores).sum(axis=1) - 2 * own + 1  # their targets are 0, the own one's 1
    return targets, suggested, others[rows, suggested] - own, errors


def doubt(predictions: Predictions) -> str | None:
    """Why most suspects may be right after all; None where nothing speaks for it."""
    if predictions.accuracy >= _TRUSTED_FROM:
        return None
    return (
        f"{predictions.accuracy:.1%} of the labels are predicted at all, so most of these images "
        "are hard and not labelled wrong"
    )
