from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from training.auto.judge import Validation, gain, pays


def validation(own: Sequence[float]) -> Validation:
    """Of two classes; what each image's own, the first, is given."""
    first = np.array(own, np.float32)
    return Validation(np.stack([first, 1 - first], axis=1), np.zeros(len(own), np.int64))


def test_errors_are_the_squares_of_all_probabilities() -> None:
    judged = validation([1.0, 0.5, 0.2])
    assert judged.errors == pytest.approx([0, 0.5, 1.28])
    assert judged.accuracy == pytest.approx(2 / 3)


def test_the_interval_is_that_of_the_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    before, now = (validation(rng.uniform(low, 1, 40).tolist()) for low in (0, 0.3))
    found = gain(before, now)
    expected = stats.ttest_rel(before.errors, now.errors).confidence_interval(0.95)
    assert found[1:] == pytest.approx((expected.low, expected.high))
    assert pays(found) is bool(expected.low > 0)


@pytest.mark.parametrize(
    ("before", "now", "wanted"),
    [
        ([0.1, 0.2, 0.3, 0.4], [0.9, 0.9, 0.9, 0.9], True),
        ([0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4], False),
        ([0.9, 0.9, 0.9, 0.9], [0.1, 0.2, 0.3, 0.4], False),
        ([0.1, 0.9, 0.1, 0.9], [0.9, 0.2, 0.9, 0.2], False),
        ([0.1], [0.9], False),
    ],
)
def test_more_pays_where_luck_would_hardly_do_it(
    before: list[float], now: list[float], wanted: bool
) -> None:
    assert pays(gain(validation(before), validation(now))) is wanted


def test_written_and_read_it_is_the_same(tmp_path: Path) -> None:
    judged = validation([0.25, 0.75])
    judged.write(tmp_path / "validation.npz")
    again = Validation.read(tmp_path / "validation.npz")
    assert np.array_equal(again.probabilities, judged.probabilities)
    assert again.accuracy == judged.accuracy == 0.5
