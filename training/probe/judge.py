"""How good the leave-one-out predictions are: accuracy, the learning curve, what is confused."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from models.linear.predictions import Predictions, compare, left_out
from models.linear.ridge import Design, Integers, LinearClassifier, fit
from training.probe.features import Depth

# Shares of the images whose accuracies make the learning curve, each 1 / number.
CURVE = (8, 4, 2)
# Up to so many images, every part of the images is fitted on in its turn, and the accuracies are
# averaged; of more, one part is enough, and takes as long as a fit to them all did before.
_ALL_PARTS_UP_TO = 5000


@dataclass(frozen=True)
class DepthScore:
    """One depth, judged by leaving each training image out. `seconds`: of fitting and judging."""

    depth: Depth
    predictions: Predictions
    seconds: float


@dataclass(frozen=True)
class CurvePoint:
    """The accuracy that a fit to so many images has on others."""

    images: int
    accuracy: float


def score(design: Design, depth: Depth) -> DepthScore:
    """Fit, and judge each image by what the others say of it."""
    started = time.perf_counter()
    predictions = left_out(fit(design))
    return DepthScore(depth, predictions, time.perf_counter() - started)


def learning_curve(design: Design, seed: int) -> list[CurvePoint]:
    """What an eighth, a quarter and a half of the images give; the whole is known by then.

    Each fit is judged on all images, on those that it was fitted to by leaving them out. Shares
    with less than one image a class are left out.
    """
    points = []
    for parts in CURVE:
        if len(design) < parts * max(2, design.classes):
            continue
        part_of = _parts(design, parts, seed)
        chosen = range(parts) if len(design) <= _ALL_PARTS_UP_TO else range(1)
        accuracies = [_part_accuracy(design, part_of == part) for part in chosen]
        points.append(CurvePoint(len(design) // parts, float(np.mean(accuracies))))
    return points


def k_fold(design: Design, folds: int, seed: int) -> list[tuple[int, int]]:
    """Of each fold, how many images a fit to the others gets right, and how many there are.

    Units stay together, and each fold has its share of each class.
    """
    fold_of = _parts(design, folds, seed)
    return [_fold(design, fold_of == fold) for fold in range(folds)]


def _fold(design: Design, held_out: NDArray[np.bool_]) -> tuple[int, int]:
    classifier = fit(replace(design, rows=np.flatnonzero(~held_out))).classifier
    return _right(classifier, replace(design, rows=np.flatnonzero(held_out))), int(held_out.sum())


def _right(classifier: LinearClassifier, design: Design) -> int:
    right = 0
    for _, features, one_hot in design.blocks():
        targets = one_hot.argmax(axis=1)
        right += int((compare(classifier.scores(features), targets)[2] < 0).sum())
    return right


def _parts(design: Design, parts: int, seed: int) -> Integers:
    """int64[M], in which part each image is: the units of a class, shuffled, are dealt out."""
    units = np.arange(len(design.targets)) if design.units is None else design.units
    _, first, unit_of = np.unique(units, return_index=True, return_inverse=True)
    shuffled = np.random.default_rng(seed).permutation(len(first))
    by_class = shuffled[np.argsort(design.targets[first[shuffled]], kind="stable")]
    part_of_unit = np.empty(len(first), np.int64)
    part_of_unit[by_class] = np.arange(len(first)) % parts
    return part_of_unit[unit_of]


def _part_accuracy(design: Design, chosen: NDArray[np.bool_]) -> float:
    ridge = fit(replace(design, rows=np.flatnonzero(chosen)))
    right = int(left_out(ridge).is_right.sum())
    right += _right(ridge.classifier, replace(design, rows=np.flatnonzero(~chosen)))
    return right / len(design.targets)


def at_twice(curve: list[CurvePoint], whole: float) -> float | None:
    """The accuracy that twice as many images would bring, if the error went on to shrink by the
    factor by which the last doubling has shrunk it (a power law, as learning curves mostly are:
    Hestness et al. 2017, arXiv:1712.00409).

    Args:
        curve: up to the half of the images. whole: the accuracy of all of them.

    Returns:
        None where that can't be told: there was no half.
    """
    if not curve:
        return None
    error, before = 1 - whole, 1 - curve[-1].accuracy
    return 1 - error * min(1.0, error / before) if before > 0 else whole
