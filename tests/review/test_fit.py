from __future__ import annotations

import numpy as np
import pytest

from models.linear.predictions import left_out
from models.linear.ridge import Design, fit
from review.fit import best_depth, can_fit, change, fit_labels
from review.space import Space, make_space

DEPTH = "block 1"
NAMES = ("cat", "dog", "eel")


def make(count: int = 60, noise: float = 0.3) -> tuple[Space, list[str]]:
    rng = np.random.default_rng(0)
    classes = np.arange(count) % 3
    features = rng.normal(size=(3, 20))[classes] + rng.normal(0, noise, (count, 20))
    return make_space(features), [NAMES[one] for one in classes]


def alone(count: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.arange(count)


def test_it_is_the_ridge_of_the_probe() -> None:
    space, truth = make()
    labelled = {row: truth[row] for row in (1, 0, 5, 9, 14, 22, 40)}
    found = fit_labels(labelled, alone(60), space, DEPTH)
    rows = sorted(labelled)
    targets = np.array([NAMES.index(truth[row]) for row in rows])
    expected = left_out(fit(Design(space.coordinates[rows], targets, 3)))
    np.testing.assert_array_equal(found.predictions.margin, expected.margin)
    assert found.rows.tolist() == rows
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, rtol=1e-5)
    said = [found.labels[one] for one in found.probabilities.argmax(axis=1)]
    assert np.mean([one == other for one, other in zip(said, truth, strict=True)]) > 0.9


def test_groups_are_left_out_together() -> None:
    space, truth = make(12)
    labelled = dict(enumerate(truth))
    apart = fit_labels(labelled, alone(12), space, DEPTH)
    together = fit_labels(labelled, np.arange(12) % 6, space, DEPTH)
    assert together.predictions.error != apart.predictions.error


def test_a_change_compares_on_what_had_a_label_before() -> None:
    space, truth = make()
    labelled = {row: truth[row] for row in range(12)} | {3: "eel"}
    before = fit_labels(labelled, alone(60), space, DEPTH)
    assert [(row, says) for row, says, _ in before.suspects()] == [(3, truth[3])]
    more = {row: truth[row] for row in range(20)}
    found = change(before, fit_labels(more, alone(60), space, DEPTH))
    assert found.labels == (12, 20)
    assert found.accuracy == pytest.approx((11 / 12, 1.0))
    assert (found.suspects, found.gone) == ((1, 0), 1)
    same = change(before, before)
    assert (same.flipped, same.gone) == (0, 0)


def test_the_depth_is_the_one_with_the_smallest_error() -> None:
    good, truth = make()
    bad, _ = make(noise=30)
    other = "FC1"
    assert best_depth(dict(enumerate(truth)), alone(60), {other: bad, DEPTH: good}) == DEPTH


@pytest.mark.parametrize(
    ("labelled", "enough"),
    [
        ({}, False),
        ({1: "a", 2: "b"}, False),
        ({1: "a", 2: "a", 3: "a"}, False),
        ({1: "a", 2: "b", 3: "a"}, True),
    ],
)
def test_what_is_enough(labelled: dict[int, str], enough: bool) -> None:
    assert can_fit(labelled) is enough


def test_a_space_keeps_what_there_is() -> None:
    """Of fewer directions than it may have, distances are the features' own."""
    features = np.random.default_rng(1).normal(3, 1, (40, 12)).astype(np.float16)
    space = make_space(features)
    assert space.coordinates.shape == (40, 12)
    own = np.linalg.norm(features[:, None].astype(np.float64) - features[None], axis=2)
    theirs = np.linalg.norm(space.coordinates[:, None] - space.coordinates[None], axis=2)
    np.testing.assert_allclose(theirs, own, atol=1e-3)
    np.testing.assert_array_equal(make_space(features).coordinates, space.coordinates)
