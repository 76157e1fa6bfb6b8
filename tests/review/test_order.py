from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from review.order import first_penalty, most_valuable, uncertainty
from review.space import make_space

Floats = NDArray[np.float64]
NONE = np.array([], np.int64)


def by_definition(features: Floats, labelled: list[int], doubt: Floats, penalty: float) -> int:
    """The image that takes most off the others' variances, each inverse computed anew."""

    def variances(rows: list[int]) -> Floats:
        known = features[rows]
        inverse = np.linalg.inv(known.T @ known + penalty * np.eye(features.shape[1]))
        found: Floats = np.einsum("ij,jk,ik->i", features, inverse, features)
        return found

    before = variances(labelled)
    rest = [row for row in range(len(features)) if row not in labelled]
    gains = [doubt[row] * (doubt * (before - variances([*labelled, row]))).sum() for row in rest]
    return rest[int(np.argmax(gains))]


def test_images_that_are_all_alike_have_some_order() -> None:
    space = make_space(np.ones((3, 8), np.float16))
    penalty = first_penalty(space.coordinates)
    rows, doubt = np.arange(3), np.ones(3)
    found = most_valuable(space.coordinates, NONE, rows, doubt, penalty=penalty, count=9)
    assert sorted(found) == [0, 1, 2]


def test_each_is_the_one_that_takes_most_off() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(30, 4))
    doubt = rng.random(30)
    # Of the pool are the candidates; with none labelled that is all of them, then and later.
    chosen = most_valuable(features, NONE, np.arange(30), doubt, penalty=0.5, count=6)
    labelled: list[int] = []
    for row in chosen:
        assert row == by_definition(features, labelled, doubt, 0.5)
        labelled.append(row)


def test_near_copies_dont_fill_it() -> None:
    rng = np.random.default_rng(1)
    copies = np.array([5.0, 0, 0]) + rng.normal(0, 0.01, (5, 3))
    others = np.array([[0, 1.0, 0], [0, 0, 1.0], [0, 1.1, 0.1]])
    features = np.vstack([copies, others])
    chosen = most_valuable(features, NONE, np.arange(8), np.ones(8), penalty=0.1, count=3)
    assert [row < 5 for row in chosen] == [True, False, False]


def test_what_is_clear_is_not_asked_for() -> None:
    features = np.random.default_rng(2).normal(size=(20, 3))
    doubt = np.zeros(20)
    doubt[13] = 0.5
    assert most_valuable(features, NONE, np.arange(20), doubt, penalty=1, count=1) == [13]
    assert most_valuable(features, np.arange(20), NONE, doubt, penalty=1, count=1) == []


def test_uncertainty_is_how_near_the_second_is() -> None:
    shares = np.array([[0.5, 0.5, 0], [1, 0, 0], [0.2, 0.7, 0.1]])
    np.testing.assert_allclose(uncertainty(shares), [1, 0, 0.5])
    assert uncertainty(np.ones((2, 1))).tolist() == [1, 1]
