from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.stats import binom

from models.monitoring.two_sample import Stream, TwoSample, nearest


def largest(share_a: float, share_b: float, margin: float, looks: int, seed: int) -> float:
    """The largest log e-value of so many looks at blocks of 1 to 20 and 1 to 5 outcomes."""
    rng = np.random.default_rng(seed)
    test, most = TwoSample(margin=margin), 0.0
    for _ in range(looks):
        n, m = int(rng.integers(0, 21)), int(rng.integers(0, 6))
        test.add(
            Stream(count=n, hits=int(rng.binomial(n, share_a))),
            Stream(count=m, hits=int(rng.binomial(m, share_b))),
        )
        most = max(most, test.log_e)
    return most


@pytest.mark.parametrize(("n", "m"), [(1, 1), (3, 1), (2, 5)])
@pytest.mark.parametrize("margin", [0.0, 0.05])
def test_a_factor_is_expected_to_be_1_at_most_wherever_there_is_no_harm(
    n: int, m: int, margin: float
) -> None:
    """Exactly: summed over all outcomes of a block."""
    past = TwoSample(margin=margin, a=Stream(count=20, hits=2), b=Stream(count=20, hits=9))
    for qa, below in itertools.product((0.01, 0.1, 0.3, 0.6, 0.9), (0.0, 0.02, 0.3)):
        qb = max(0.0, min(1.0, qa + margin - below))
        expected = 0.0
        for x, y in itertools.product(range(n + 1), range(m + 1)):
            test = past.model_copy(deep=True)
            test.add(Stream(count=n, hits=x), Stream(count=m, hits=y))
            expected += binom.pmf(x, n, qa) * binom.pmf(y, m, qb) * math.exp(test.log_e)
        assert expected <= 1 + 1e-9


def test_the_nearest_null_without_a_margin_is_the_weighted_mean() -> None:
    assert nearest(0.1, 0.4, 0.0, 3, 1) == pytest.approx((3 * 0.1 + 0.4) / 4)


@pytest.mark.parametrize(("share_a", "share_b", "margin"), [(0.1, 0.1, 0.0), (0.02, 0.03, 0.01)])
def test_false_alarms(share_a: float, share_b: float, margin: float) -> None:
    """Looked at 300 times each: no more than alpha of them ever cross 1/alpha."""
    alpha, runs = 0.05, 100
    alarms = sum(largest(share_a, share_b, margin, 300, s) >= -math.log(alpha) for s in range(runs))
    assert alarms <= alpha * runs


def test_harm_is_found() -> None:
    found = [largest(0.02, 0.12, 0.01, 600, seed) >= math.log(400) for seed in range(10)]
    assert all(found)


def test_a_share_that_falls_is_no_harm() -> None:
    assert largest(0.2, 0.05, 0.0, 300, 0) < 1
