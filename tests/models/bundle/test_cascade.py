from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from models.bundle.cascade import Cascade, merge, shifts, unsure


def rows(*values: list[float]) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float32]:
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponents / exponents.sum(axis=1, keepdims=True), np.float32)


@pytest.mark.parametrize(
    ("row", "margin", "expected"),
    [
        ([0.50, 0.25, 0.25], 0.125, False),
        ([0.25, 0.50, 0.25], 0.25, True),  # as far as the margin is not further
        ([0.25, 0.375, 0.375], 0.0, True),  # equal ones can't be told even without a margin
        ([0.5, 0.3, 0.2], 1.0, True),
        ([1.0], 0.9, False),  # there is no other label
    ],
)
def test_a_row_is_unsure_where_its_two_best_lie_within_the_margin(
    row: list[float], margin: float, expected: bool
) -> None:
    assert unsure(rows(row), margin).tolist() == [expected]


@pytest.mark.parametrize("row", [[np.nan, 0.9, 0.1], [np.nan] * 3, [np.inf, 0.0, 0.0], [np.nan]])
def test_what_is_no_number_is_always_unsure(row: list[float]) -> None:
    assert unsure(rows(row), 0.0).tolist() == [True]


def test_where_the_label_changes_the_shift_is_at_least_the_margin() -> None:
    """On which the whole cascade rests: whatever the rounding, no label changes that is kept."""
    random = np.random.default_rng(0)
    logits = random.normal(size=(20_000, 5))
    expected = softmax(logits)
    actual = softmax(logits + random.normal(scale=0.3, size=logits.shape))
    changed = expected.argmax(axis=1) != actual.argmax(axis=1)
    assert changed.sum() > 1_000
    moved = shifts(expected, actual)
    for margin in (0.02, 0.1, 0.3):
        kept = ~unsure(actual, margin)
        assert (moved[kept & changed] > margin).all()
    assert not (changed & ~unsure(actual, float(moved.max()))).any()


def test_shifts() -> None:
    expected = rows([0.6, 0.3, 0.1], [0.6, 0.3, 0.1], [0.6, 0.3, 0.1])
    actual = rows([0.6, 0.3, 0.1], [0.4, 0.5, 0.1], [np.nan, 0.5, 0.5])
    np.testing.assert_allclose(shifts(expected, actual), [0.0, 0.4, 0.0], atol=1e-6)


def test_merging_keeps_the_order() -> None:
    first = np.arange(12, dtype=np.float32).reshape(4, 3)
    second = -np.arange(6, dtype=np.float32).reshape(2, 3)
    merged = merge(first, second, np.array([False, True, False, True]))
    np.testing.assert_array_equal(merged, [[0, 1, 2], [0, -1, -2], [6, 7, 8], [-3, -4, -5]])
    assert first[1, 0] == 3  # it is a copy


@pytest.mark.parametrize("margin", [-0.1, 1.1, float("nan"), float("inf")])
def test_a_margin_is_a_difference_of_probabilities(margin: float) -> None:
    with pytest.raises(ValidationError):
        Cascade(margin=margin, second="float32", images=1, share=0.1, cost=0.3)
