"""When a shadow's process may compute, by counts and order: the clock is the test's own."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from threading import Event, Thread
from typing import Any

import pytest

from serving.engine.right_of_way import Traffic
from serving.rollout.idle_time import LONG_REQUEST_S, REQUESTS_A_MEETING, IdleTime
from testing.waiting import HANG_S

QUIET_S = 1.0


class Process:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.stopped = False
        self.continued = Event()

    def pause(self) -> None:
        self.stopped = True
        self.continued.clear()

    def resume(self) -> None:
        self.stopped = False
        self.continued.set()


class Bench:
    """Requests, a process that gives way to them, and a clock."""

    def __init__(self, *, stops_at_once: bool = True) -> None:
        self.now = 0.0
        self.process = Process()
        self.traffic = Traffic()
        self.idle = IdleTime(
            self.process, stops_at_once=stops_at_once, quiet_s=QUIET_S, clock=lambda: self.now
        )

    def ask(self, times: int = 1, *, take_s: float = 0.0, at_once: int = 1) -> None:
        """Requests one after another, or so many at once, and no gap after them."""
        for _ in range(times):
            for _ in range(at_once):
                self.traffic.enter()
                assert not self.is_computing
            self.now += take_s
            for _ in range(at_once):
                self.traffic.leave()

    def rest(self) -> None:
        """A gap."""
        self.now += 1.1 * QUIET_S

    @property
    def is_computing(self) -> bool:
        return self.idle._computes

    def goes_on(self) -> bool:
        return self.process.continued.wait(HANG_S)


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    with bench.traffic.only_in_gaps(bench.idle):
        yield bench
    bench.idle.close()


def test_without_requests_it_computes_at_once(bench: Bench) -> None:
    for _ in range(3):
        assert bench.idle.wait(0)
        with bench.idle.computing():
            assert bench.is_computing
    assert bench.idle.met == 0
    assert not bench.process.stopped


def test_a_request_stops_it_and_takes_the_credit_of_many(bench: Bench) -> None:
    with bench.idle.computing():
        bench.ask()
        assert bench.process.stopped
        assert bench.idle.met == 1
        bench.ask(REQUESTS_A_MEETING - 1)
        bench.rest()
        assert not bench.idle.wait(0)
        bench.ask()
        assert not bench.idle.wait(0)  # credit, and no gap yet
        bench.rest()
        assert bench.goes_on()
    assert bench.idle.met == 1


def test_requests_that_find_it_waiting_cost_nothing(bench: Bench) -> None:
    bench.ask(5)
    bench.rest()
    assert bench.idle.wait(0)
    assert bench.idle.met == 0
    assert not bench.process.stopped


def test_credit_is_not_saved_up(bench: Bench) -> None:
    bench.ask(10 * REQUESTS_A_MEETING)
    bench.rest()
    with bench.idle.computing():
        bench.ask()
    bench.rest()
    assert not bench.idle.wait(0)


@pytest.mark.parametrize("share", [0.05, 0.5, 1.0])
def test_few_requests_meet_it(bench: Bench, share: float) -> None:
    """Although there is work all the time, and gaps before that share of the requests."""
    draw, requests = random.Random(0), 20 * REQUESTS_A_MEETING
    for _ in range(requests):
        if draw.random() < share:
            bench.rest()
        if bench.idle.wait(0):
            with bench.idle.computing():
                bench.ask()
        else:
            bench.ask()
    assert 0.9 * requests / REQUESTS_A_MEETING <= bench.idle.met
    assert bench.idle.met <= 1 + requests / REQUESTS_A_MEETING


def meetings(bench: Bench, requests: int, **how: Any) -> int:
    """Of requests with a gap before each, and work all the time."""
    before = bench.idle.met
    for _ in range(requests):
        bench.rest()
        if bench.idle.wait(0):
            with bench.idle.computing():
                bench.ask(**how)
        else:
            bench.ask(**how)
    return bench.idle.met - before


def test_any_long_request_may_meet_it(bench: Bench) -> None:
    bench.ask(100, take_s=1.1 * LONG_REQUEST_S)
    assert meetings(bench, 100, take_s=1.1 * LONG_REQUEST_S) == 100
    meetings(bench, 100, take_s=0.9 * LONG_REQUEST_S)  # among which it learns
    assert meetings(bench, 100, take_s=0.9 * LONG_REQUEST_S) == 0


def test_a_few_short_ones_among_them_change_nothing(bench: Bench) -> None:
    """Images that can't be decoded, say."""
    for number in range(200):
        bench.ask(take_s=0.001 if number % 3 == 0 else 1.1 * LONG_REQUEST_S)
    assert meetings(bench, 100, take_s=1.1 * LONG_REQUEST_S) == 100


def test_what_requests_beside_each_other_take_does_not_count(bench: Bench) -> None:
    bench.ask(100, take_s=1.1 * LONG_REQUEST_S, at_once=2)
    assert meetings(bench, 100, take_s=1.1 * LONG_REQUEST_S, at_once=2) == 1


def test_what_does_not_stop_at_once_meets_few_long_ones_either() -> None:
    bench = Bench(stops_at_once=False)
    with bench.traffic.only_in_gaps(bench.idle):
        bench.ask(100, take_s=1.1 * LONG_REQUEST_S)
        assert meetings(bench, 100, take_s=1.1 * LONG_REQUEST_S) == 1
    bench.idle.close()


def test_it_begins_stopped_where_a_request_has_come_before_it(bench: Bench) -> None:
    bench.traffic.enter()
    with bench.idle.computing():
        assert bench.process.stopped
        bench.traffic.leave()
        bench.rest()
        assert bench.goes_on()
    assert bench.idle.met == 0


def test_after_an_answer_it_waits_for_a_gap(bench: Bench) -> None:
    bench.ask()
    bench.now += 0.9 * QUIET_S
    assert not bench.idle.wait(0)
    bench.now += 0.2 * QUIET_S
    assert bench.idle.wait(0)


def test_of_requests_at_the_same_time_the_last_counts(bench: Bench) -> None:
    for _ in range(2):
        bench.traffic.enter()
    bench.traffic.leave()
    bench.rest()
    assert not bench.idle.wait(0)
    bench.traffic.leave()
    bench.rest()
    assert bench.idle.wait(0)


def test_it_is_left_to_go_on_when_its_work_has_ended(bench: Bench) -> None:
    """It waits for a question then, and must hear of its end."""
    with bench.idle.computing():
        bench.ask()
        assert bench.process.stopped
    assert not bench.process.stopped


def test_closing_ends_the_wait(bench: Bench) -> None:
    bench.traffic.enter()
    waiting = Thread(target=bench.idle.wait, args=(math.inf,), daemon=True)
    waiting.start()
    bench.idle.close()
    waiting.join(HANG_S)
    assert not waiting.is_alive()
    assert not bench.idle.wait(0)
    bench.traffic.leave()
