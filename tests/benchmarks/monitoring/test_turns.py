from __future__ import annotations

import time

import numpy as np
import pytest

from benchmarks.monitoring.stalls import overlaps, watch_stalls
from benchmarks.monitoring.turns import MAX_OTHERS_CORES, Pair, Turn, order, quantile, ratio

RNG = np.random.default_rng(0)


def turns(count: int, slower: float = 1.0) -> list[Turn]:
    return [Turn((slower * RNG.gamma(20, 0.2, 500)).tolist(), 0.0) for _ in range(count)]


def test_the_order_favours_no_state() -> None:
    states = [state for pair in order(4) for state in pair]
    assert states == ["without", "beside", "beside", "without"] * 2


@pytest.mark.parametrize("slower", [1.0, 1.2])
@pytest.mark.parametrize("percent", [50, 99])
def test_a_ratio_lies_in_its_interval_and_so_does_the_truth(slower: float, percent: float) -> None:
    found = ratio(turns(10, slower), turns(10), percent)
    assert found.low <= found.value <= found.high
    assert found.low <= slower <= found.high
    assert found.high - found.low < 0.15


def test_a_spike_that_comes_once_widens_the_interval() -> None:
    """All requests of 50 ms in one turn: its p99 is theirs, and it may as well not have come."""
    above, below = turns(10), turns(10)
    above[3].times_ms[:50] = [50.0] * 50
    found = ratio(above, below, 99)
    assert found.low < 1.1
    assert found.high > 5


def test_a_quantile_is_of_all_requests_together() -> None:
    assert quantile([Turn([1.0] * 100, 0.0), Turn([1.0] * 99 + [7.0] * 2, 0.0)], 99) == 1.0
    assert quantile([Turn([1.0] * 98, 0.0), Turn([7.0] * 2, 0.0)], 99) == 7.0
    with pytest.raises(ValueError, match="0 turns against 0"):
        ratio([], [], 50)


@pytest.mark.parametrize("others", [0.0, MAX_OTHERS_CORES + 0.01])
def test_a_pair_is_saved_and_counts_where_both_turns_were_quiet(others: float) -> None:
    pair = Pair(Turn([1.0], 0.0), Turn([2.0], others, [90.0]))
    assert Pair.read(pair.to_json()) == pair
    assert pair.is_quiet == (others == 0.0)


def test_stalls_overlap_what_was_under_way() -> None:
    stalls = [(1.0, 2.0)]
    found = [overlaps(stalls, *span) for span in ((0.0, 1.1), (1.4, 1.5), (1.9, 3.0), (2.1, 3.0))]
    assert found == [True, True, True, False]


def test_watching_ends_with_the_block() -> None:
    try:
        with watch_stalls() as stalls:
            began = time.monotonic()
            time.sleep(0.2)
    except PermissionError:
        pytest.skip("no right to real-time priority")
    assert all(until > began - 1 and until > since for since, until in stalls)
