from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from models.linear.predictions import Predictions, left_out
from models.linear.ridge import Design, fit
from training.probe import judge
from training.probe.judge import (
    CurvePoint,
    at_twice,
    k_fold,
    learning_curve,
)


def noisy(images: int, classes: int = 3, noise: float = 1.0, seed: int = 0) -> Design:
    rng = np.random.default_rng(seed)
    targets = np.arange(images) % classes
    features = np.eye(classes)[targets] + rng.normal(0, noise, (images, classes))
    return Design(features, targets, classes)


def test_what_is_predicted_is_the_highest_score() -> None:
    design = noisy(60)
    ridge = fit(design)
    scores = np.concatenate([scores for _, scores in ridge.leave_one_out()])
    predictions = left_out(ridge)
    predicted = scores.argmax(axis=1)
    np.testing.assert_array_equal(predictions.is_right, predicted == design.targets)
    wrong = ~predictions.is_right
    np.testing.assert_array_equal(predictions.suggested[wrong], predicted[wrong])
    assert predictions.balanced_accuracy == pytest.approx(
        balanced_accuracy_score(design.targets, predicted)
    )
    np.testing.assert_allclose(
        predictions.errors, np.square(scores - np.eye(3)[design.targets]).sum(axis=1)
    )
    row = int(np.flatnonzero(wrong)[0])
    others = scores[row].max() - scores[row, design.targets[row]]
    assert predictions.margin[row] == pytest.approx(others)


def test_the_interval_is_wilsons() -> None:
    margin = np.where(np.arange(10) < 9, -1.0, 1.0)
    predictions = Predictions(np.zeros(10, np.int64), np.ones(10, np.int64), margin, margin)
    assert predictions.accuracy == 0.9
    assert predictions.interval == pytest.approx((0.5958, 0.9821), abs=1e-4)  # Wilson's for 9 of 10


def test_pairs_are_counted_in_both_directions() -> None:
    targets, suggested = np.array([0, 1, 1, 2, 2, 0]), np.array([1, 0, 2, 1, 0, 2])
    margin = np.array([1.0, 1.0, 1.0, 1.0, -1.0, -1.0])
    pairs = Predictions(targets, suggested, margin, margin).hardest_pairs(5)
    assert pairs == [(0, 1, 2), (1, 2, 2)]


def test_more_images_are_better_and_the_order_of_the_files_doesnt_matter() -> None:
    design = noisy(400, noise=0.6)
    curve = learning_curve(design, seed=0)
    assert [point.images for point in curve] == [50, 100, 200]
    accuracies = [*(point.accuracy for point in curve), left_out(fit(design)).accuracy]
    assert accuracies == sorted(accuracies)
    order = np.argsort(design.targets, kind="stable")
    by_class = Design(design.features[order], design.targets[order], 3)
    for one, other in zip(curve, learning_curve(by_class, seed=0), strict=True):
        assert one.accuracy == pytest.approx(other.accuracy, abs=0.02)


def test_copies_say_nothing_of_each_other() -> None:
    """Noise alone: with its copy among the others, each image would be known."""
    rng = np.random.default_rng(0)
    features, targets = rng.normal(size=(60, 200)), rng.integers(0, 3, 60)
    twice = Design(np.repeat(features, 2, axis=0), np.repeat(targets, 2), 3)
    together = replace(twice, units=np.repeat(rng.permutation(60), 2))
    assert left_out(fit(twice, [1.0])).accuracy == 1.0
    once = left_out(fit(Design(features, targets, 3), [0.5]))
    both = left_out(fit(together, [1.0]))
    np.testing.assert_allclose(both.margin, np.repeat(once.margin, 2))
    for point in learning_curve(together, seed=0):
        assert point.accuracy < 0.6


def test_of_many_images_one_part_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    design = noisy(400, noise=0.6)
    curve = learning_curve(design, seed=0)
    monkeypatch.setattr(judge, "_ALL_PARTS_UP_TO", 100)
    for one, other in zip(curve, learning_curve(design, seed=0), strict=True):
        assert one.accuracy == pytest.approx(other.accuracy, abs=0.05)


def test_shares_with_less_than_an_image_a_class_are_left_out() -> None:
    assert [point.images for point in learning_curve(noisy(20, classes=5), seed=0)] == [5, 10]
    assert learning_curve(noisy(4, classes=4), seed=0) == []


@pytest.mark.parametrize(
    ("half", "whole", "expected"), [(0.8, 0.9, 0.95), (0.9, 0.9, 0.9), (0.9, 0.8, 0.8), (1, 1, 1)]
)
def test_twice_as_many_images_shrink_the_error_as_the_last_doubling_did(
    half: float, whole: float, expected: float
) -> None:
    assert at_twice([CurvePoint(50, half)], whole) == pytest.approx(expected)


def test_without_a_curve_there_is_no_outlook() -> None:
    assert at_twice([], 0.9) is None


def test_k_fold_is_a_fit_to_the_other_folds() -> None:
    rng = np.random.default_rng(0)
    targets = np.repeat(np.arange(3), 20)
    features = rng.normal(size=(60, 5)) + targets[:, None]
    units = np.arange(60) // 2  # pairs stay together
    folds = k_fold(Design(features, targets, 3, units), 5, seed=0)
    assert [images for _, images in folds] == [12] * 5
    separate = np.eye(3)[targets]
    assert k_fold(Design(separate, targets, 3), 5, seed=0) == [(12, 12)] * 5
    assert 20 < sum(right for right, _ in folds) < 60
