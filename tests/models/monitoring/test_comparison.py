from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from models.monitoring.comparison import Comparison, Labelled, Opinion
from models.monitoring.histogram import Times


def test_what_two_workers_counted_is_the_sum() -> None:
    one, other, both = Comparison(), Comparison(), Comparison()
    for number in range(10):
        production = Opinion("a", 0.75, True, 0.5)
        candidate = Opinion("a" if number < 7 else "b", 0.5, number % 2 == 0)
        for comparison in (one if number < 4 else other, both):
            comparison.add(production, candidate)
            comparison.production.alone.add(0.1)
            comparison.candidate.alone.add(0.1 * (1 + number / 10))
    other.add_failure("invalid")
    both.add_failure("invalid")
    one.merge(Comparison.model_validate_json(other.model_dump_json()))
    assert one == both  # sums of halves and quarters are exact
    assert one.agreement == 0.7
    assert one.accepted_alike == 5
    assert one.confusions == {"a \u2192 b": 3}
    assert one.mean(one.candidate, "confidence") == 0.5
    assert one.mean(one.production, "distance") == 0.5
    assert one.mean(one.candidate, "distance") is None
    assert one.latency_ratio == pytest.approx(1.4, rel=0.03)
    assert one.failed == 1


def test_the_interval_is_wilsons() -> None:
    comparison = Comparison(images=2000, agreed=1900)
    expected = binomtest(1900, 2000).proportion_ci(method="wilson")
    assert comparison.agreement_interval() == pytest.approx(tuple(expected), abs=1e-5)
    assert Comparison().agreement_interval() is None


def test_confusions_are_bounded() -> None:
    comparison = Comparison()
    for number in range(1000):
        comparison.add(Opinion("a", 1, True), Opinion(f"b{number}", 1, True))
    assert len(comparison.confusions) == 201
    assert sum(comparison.confusions.values()) == 1000


def test_quantiles_are_within_a_bin() -> None:
    seconds = np.random.default_rng(0).lognormal(-3, 1, 5000)
    times = Times()
    for value in seconds:
        times.add(float(value))
    for share in (0.1, 0.5, 0.99):
        assert times.quantile(share) == pytest.approx(np.quantile(seconds, share), rel=0.02)
    assert Times().median_s is None
    times.add(0.0)  # of a clock that is too coarse
    assert len(times.bins) < 500


def test_who_was_right() -> None:
    labelled = Labelled()
    for right, production, candidate in ("aaa", "aab", "bab", "cab", "bab"):
        labelled.add(right, production, candidate)
    assert labelled == Labelled(both=1, production=1, candidate=2, neither=1)
    assert labelled.difference == pytest.approx(0.2)
    assert Labelled().difference is None
