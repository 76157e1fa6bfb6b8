from __future__ import annotations

import pytest
from scipy.stats import binomtest

from models.intervals import wilson


@pytest.mark.parametrize(("right", "count"), [(0, 1), (1, 1), (7, 9), (1900, 2000), (0, 40)])
def test_wilsons_is_scipys(right: int, count: int) -> None:
    expected = binomtest(right, count).proportion_ci(method="wilson")
    assert wilson(right / count, count) == pytest.approx(tuple(expected), abs=1e-12)
