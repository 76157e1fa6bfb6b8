from __future__ import annotations

import pytest
from scipy import stats

from training.evaluate.interval import wilson_interval


@pytest.mark.parametrize(
    ("right", "count"), [(0, 1), (1, 1), (0, 32), (21, 32), (32, 32), (7, 10_000)]
)
def test_equals_scipys(right: int, count: int) -> None:
    expected = stats.binomtest(right, count).proportion_ci(method="wilson")
    low, high = wilson_interval(right, count)
    assert low == pytest.approx(expected.low, abs=1e-12)
    assert high == pytest.approx(expected.high, abs=1e-12)
