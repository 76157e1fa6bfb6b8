"""The last layer in closed form: a ridge regression on the frozen features, scaled into logits.

A ridge on one-hot targets gives scores of about 0 to 1, and their softmax would be nearly uniform.
So they are multiplied by the number with which the scores of images that were left out have the
smallest cross-entropy: a temperature (Guo et al. 2017, arXiv:1706.04599) that needs no image
besides those that were fitted to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.linear.ridge import Design, Floats, Integers, Ridge, fit

# Tried, each 10% above the one before, so the best is 5% away at most. Of a fit to 0 and 1, a scale
# of 1,000 is certainty about everything.
SCALES = np.geomspace(1, 1000, 73)


@dataclass(frozen=True)
class HeadFit:
    """Weights that give logits, and how good they are on images that they were not fitted to.

    Args:
        weight: float32[C,p]. bias: float32[C].
        loss: mean cross-entropy in nats, to targets as smooth as was asked for, and `correct`: how
            many images are right, both of the predictions that leave the image out.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    loss: float
    correct: int
    images: int


def fit_head(design: Design, label_smoothing: float = 0.0) -> HeadFit:
    """Fit to all images, at the penalty and the scale that their leave-one-out predictions favour.

    The same to the bit whenever it is given the same features on the same machine.

    Args:
        label_smoothing: 0..1, of the targets of the loss that is told, as
            `torch.nn.functional.cross_entropy` has it; the fit doesn't depend on it.
    """
    return scaled_head(fit(design), label_smoothing)


def scaled_head(ridge: Ridge, label_smoothing: float = 0.0) -> HeadFit:
    """As `fit_head`, of a fit that there is already."""
    design = ridge.design
    # Targets of (N + 1) / (N + 2) with the rest shared by all classes, much as Platt (1999) has
    # them: the loss has its least at a finite scale also where no image is wrong.
    smoothings = (1 / (len(design) + 2), label_smoothing)
    sums, correct = np.zeros((2, len(SCALES))), 0
    for rows, scores in ridge.leave_one_out():
        targets = design.targets[rows]
        correct += int((scores.argmax(axis=1) == targets).sum())
        sums += _cross_entropies(scores, targets, smoothings)
    best = int(sums[0].argmin())
    classifier = ridge.classifier
    return HeadFit(
        weight=(classifier.weight * SCALES[best]).astype(np.float32),
        bias=(classifier.bias * SCALES[best]).astype(np.float32),
        loss=float(sums[1, best]) / len(design),
        correct=correct,
        images=len(design),
    )


def _cross_entropies(scores: Floats, targets: Integers, smoothings: Sequence[float]) -> Floats:
    """Sums over the rows, float64[len(smoothings),S]: to targets smoothed so, at each scale."""
    below = scores - scores.max(axis=1, keepdims=True)
    normalisers = np.array([np.log(np.exp(s * below).sum(axis=1)).sum() for s in SCALES])
    own = below[np.arange(len(targets)), targets].sum()
    shared = below.mean(axis=1).sum()
    return np.array([normalisers - SCALES * ((1 - s) * own + s * shared) for s in smoothings])
