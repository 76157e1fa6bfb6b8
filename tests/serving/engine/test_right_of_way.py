"""Which goes first, by counts: no clock is asked."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event, Thread

import onnxruntime as ort
import pytest

from serving.engine.right_of_way import Courtesy, Traffic

LONG_S = 60.0


class Run:
    """A run that ends with an error when its options say so, as ONNX Runtime's do."""

    def __init__(self, meanwhile: Callable[[int], None] = lambda times: None) -> None:
        self.times = 0
        self._meanwhile = meanwhile

    def __call__(self, options: ort.RunOptions) -> str:
        self.times += 1
        self._meanwhile(self.times)
        if options.terminate:
            raise RuntimeError("Exiting due to terminate flag being set to true.")
        return "done"


def test_where_nobody_asks_it_runs_once() -> None:
    run = Run()
    assert Courtesy(Traffic()).run(run) == "done"
    assert run.times == 1


def test_a_request_ends_the_run_which_begins_anew_after_it() -> None:
    traffic, came = Traffic(), Event()

    def request(times: int) -> None:
        if times == 1:
            traffic.enter()
            came.set()

    run = Run(request)
    loading = Thread(target=lambda: Courtesy(traffic, LONG_S).run(run))
    loading.start()
    assert came.wait(LONG_S)
    loading.join(0.05)  # it waits; were it not to, the count below would be another one
    assert run.times == 1
    traffic.leave()
    loading.join(LONG_S)
    assert run.times == 2


def test_it_begins_in_the_gap_after_the_last_of_several_requests() -> None:
    traffic, run = Traffic(), Run()
    for _ in range(3):
        traffic.enter()
    for _ in range(2):
        traffic.leave()
    assert not traffic.take_gap(ort.RunOptions(), 0.0)
    traffic.leave()
    assert Courtesy(traffic, LONG_S).run(run) == "done"
    assert traffic.take_gap(ort.RunOptions(), 0.0)


def test_a_second_run_begins_with_a_gap_or_in_a_long_one(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    traffic, usual_s = Traffic(), 0.1

    def may_begin() -> bool:
        return traffic.take_gap(ort.RunOptions(), 0.0, usual_s)

    assert may_begin()  # nobody has asked yet
    traffic.enter()
    assert not may_begin()
    traffic.leave()
    assert not may_begin()  # the answer is still to be written
    clock[0] += 0.005
    assert may_begin()
    clock[0] += usual_s  # a run has ended; another one as long hardly fits
    assert not may_begin()
    assert traffic.take_gap(ort.RunOptions(), 0.0)  # the first run, of which nothing is known
    traffic.enter()
    traffic.leave()
    clock[0] += 0.005
    assert may_begin()
    clock[0] += 4 * usual_s
    assert may_begin()


def test_it_is_busy_during_a_request_and_for_a_second_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    traffic = Traffic()
    found = [traffic.is_busy]
    traffic.enter()
    clock[0] += 5.0
    found.append(traffic.is_busy)
    traffic.leave()
    for passed_s in (0.9, 0.2):
        clock[0] += passed_s
        found.append(traffic.is_busy)
    assert found == [False, True, True, False]


def test_work_that_can_not_be_ended_begins_between_requests_or_when_its_patience_ends() -> None:
    traffic, began = Traffic(), Event()
    traffic.enter()

    def work(courtesy: Courtesy) -> None:
        courtesy.wait_for_beginning(0.1)
        began.set()

    loading = Thread(target=work, args=[Courtesy(traffic, LONG_S)])
    loading.start()
    assert not began.wait(0.05)
    traffic.leave()
    loading.join(LONG_S)
    assert began.is_set()
    traffic.enter()
    work(Courtesy(traffic, 0.01))  # returns in spite of the request


def test_who_waits_for_a_long_gap_begins_without_being_told() -> None:
    traffic, run = Traffic(), Run()
    courtesy = Courtesy(traffic, LONG_S)
    courtesy.run(lambda options: time.sleep(0.05))  # what it takes
    traffic.enter()
    traffic.leave()
    time.sleep(0.02)  # no longer the beginning, and not yet 0.15
    assert courtesy.run(run) == "done"
    assert run.times == 1


def test_without_a_gap_it_runs_in_spite_of_requests_when_its_patience_is_at_an_end() -> None:
    traffic = Traffic()
    traffic.enter()
    courtesy, run = Courtesy(traffic, 0.01), Run(lambda times: traffic.enter())
    assert [courtesy.run(run) for _ in range(3)] == ["done"] * 3
    assert run.times == 3  # none of them was ended by a request


def test_runs_that_requests_end_are_counted_against_its_patience() -> None:
    """Or a steady stream of requests, each in a gap, would keep a model from ever being loaded."""
    traffic = Traffic()

    def request(times: int) -> None:
        traffic.enter()
        traffic.leave()

    run = Run(request)
    assert Courtesy(traffic, 0.3).run(run) == "done"
    assert run.times > 1


def test_its_own_errors_are_raised_and_nothing_gives_way_after_it() -> None:
    traffic = Traffic()
    given: list[ort.RunOptions] = []

    def fail(options: ort.RunOptions) -> None:
        given.append(options)
        raise ValueError("no image")

    with pytest.raises(ValueError, match="no image"):
        Courtesy(traffic).run(fail)
    traffic.enter()
    assert [options.terminate for options in given] == [False]


def test_other_work_waits_for_its_gaps_too_and_not_for_ever() -> None:
    traffic = Traffic()
    courtesy = Courtesy(traffic, 0.01)
    courtesy.wait()
    traffic.enter()
    for _ in range(1000):
        courtesy.wait()
    run = Run(lambda times: traffic.enter())
    assert courtesy.run(run) == "done"  # its patience was spent waiting, so nothing ends it
    assert run.times == 1


class Work:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def pause(self) -> None:
        self.told.append("pause")

    def resume(self) -> None:
        self.told.append("resume")


def test_what_can_pause_goes_on_when_the_last_request_has_its_answer() -> None:
    traffic, work = Traffic(), Work()
    with traffic.only_in_gaps(work):
        assert work.told == []
        traffic.enter()
        traffic.enter()
        traffic.leave()
        assert set(work.told) == {"pause"}
        traffic.leave()
        assert work.told[-1] == "resume"
    work.told.clear()
    traffic.enter()  # after the block nobody is told
    assert work.told == []
    with traffic.only_in_gaps(work):  # a request is under way already
        assert work.told == ["pause"]
    assert work.told[-1] == "resume"


def test_only_a_request_with_nothing_beside_it_is_alone() -> None:
    traffic = Traffic()
    assert traffic.alone_s == 0
    traffic.enter()
    first = traffic.alone_s
    assert 0 < first < traffic.alone_s
    traffic.enter()
    assert traffic.alone_s == 0
    before = time.perf_counter()
    traffic.leave()
    assert 0 < traffic.alone_s <= time.perf_counter() - before  # from now on
    traffic.leave()
    assert traffic.alone_s == 0
