from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, stats

from models.monitoring.sequential import Ranks, SequentialTest, bets, waiting

SHARES = np.array([0.5, 0.3, 0.15, 0.05])


def test_each_bet_averages_1_and_is_never_lost_whole() -> None:
    for number in range(bets(np.zeros(())).shape[-1]):
        mean = integrate.quad(lambda p, n=number: float(bets(np.array(p))[n]), 0, 1, limit=200)[0]
        assert mean == pytest.approx(1, abs=1e-3), number
    assert bets(np.linspace(0, 1, 1001)).min() > 0


def test_what_is_laid_in_adds_up_to_less_than_there_is() -> None:
    shares = [waiting(starts) for starts in range(10_000)]
    assert shares[0] == 1
    assert np.all(np.diff(shares) < 0)
    assert shares[-1] > 0


@pytest.mark.parametrize("is_ordinal", [True, False])
def test_ranks_are_uniform_although_the_reference_is_small(is_ordinal: bool) -> None:
    """Of an image after a reference of three, over many draws of both; and in any order."""
    rng = np.random.default_rng(0)
    first, second = [], []
    for _ in range(3000):
        ranks = Ranks(rng.multinomial(3, SHARES), is_ordinal)
        p = ranks.rank(rng.choice(4, 2, p=SHARES), rng)
        first.append(p[0, -1])
        second.append(p[1, -1])
    assert stats.kstest(first, "uniform").pvalue > 0.01
    assert stats.kstest(second, "uniform").pvalue > 0.01
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.05


def test_ranks_by_hand() -> None:
    class Half:
        def random(self, count: int) -> np.ndarray:
            return np.full(count, 0.5)

    ranks = Ranks(np.array([2, 1, 0]), is_ordinal=True)
    p = ranks.rank(np.array([1, 2]), Half())  # type: ignore[arg-type]
    # Two below and half of two in 4; then four below and half of itself in 5.
    assert p[:, 0].tolist() == [(2 + 1) / 4, (4 + 0.5) / 5]
    assert ranks.counts.tolist() == [2, 2, 1]
    categories = Ranks(np.array([2, 1, 1]), is_ordinal=False)
    p = categories.rank(np.array([1]), Half())  # type: ignore[arg-type]
    # Of itself: half of two in 5. Of the others: all of it, and half of the rest.
    assert p[0].tolist() == [(2 + 1.5) / 5, 1 / 5, (1 + 2) / 5]


def most_evidence(
    reference: int, before: int, after: int, changed: np.ndarray, seed: int, **kind: bool
) -> float:
    rng = np.random.default_rng(seed)
    test = SequentialTest(rng.multinomial(reference, SHARES), **(kind or {"is_ordinal": True}))
    for images, shares in ((before, SHARES), (after, changed)):
        test.add(rng.multinomial(images, shares), rng)
    return test.most_evidence


@pytest.mark.parametrize("is_ordinal", [True, False])
def test_false_alarms_are_as_rare_as_promised(is_ordinal: bool) -> None:
    """At a tenth, so that a hundred repetitions can tell; the reference has 30 images only, and a
    test that took them for the truth would alarm on nearly all."""
    evidence = [most_evidence(30, 2000, 0, SHARES, seed, is_ordinal=is_ordinal)
                for seed in range(100)]  # fmt: skip
    alarms = int((np.array(evidence) >= 10).sum())
    assert alarms <= stats.binom.ppf(0.999, 100, 0.1)


@pytest.mark.parametrize("before", [0, 20_000])
@pytest.mark.parametrize("is_ordinal", [True, False])
def test_a_change_is_found_early_and_late(before: int, is_ordinal: bool) -> None:
    changed = np.array([0.2, 0.3, 0.15, 0.35])
    found = [
        most_evidence(300, before, 200, changed, seed, is_ordinal=is_ordinal) for seed in range(5)
    ]
    assert min(found) > 1000


def test_order_within_what_is_added_does_not_count() -> None:
    """Sorted images would be a change at every value, if they were taken as sorted."""
    rng = np.random.default_rng(1)
    test = SequentialTest(np.full(10, 30), is_ordinal=True)
    for _ in range(20):
        test.add(rng.multinomial(100, np.full(10, 0.1)), rng)
    assert test.most_evidence < 100


def test_it_goes_on_from_its_state() -> None:
    counts = np.array([50, 30, 15, 5])
    whole, first = (SequentialTest(counts, is_ordinal=True) for _ in range(2))
    bins = np.random.default_rng(2).choice(4, 300, p=SHARES[::-1])
    whole.add_in_order(bins[:45], np.random.default_rng(3))
    first.add_in_order(bins[:45], np.random.default_rng(3))
    second = SequentialTest(counts, is_ordinal=True)
    second.restore(first.state())
    for test in (whole, second):
        test.add_in_order(bins[45:], np.random.default_rng(4))
    assert whole.most_evidence == second.most_evidence > 1000
    assert whole.evidence == pytest.approx(second.evidence)


def test_a_drift_that_goes_on_stays_a_number() -> None:
    test = SequentialTest(np.array([1000, 1]), is_ordinal=False)
    rng = np.random.default_rng(5)
    test.add(np.array([0, 5000]), rng)
    assert 1e6 < test.most_evidence < np.inf
