"""Requests go before everything else that computes: on a CPU, two at once take twice as long.

Two kinds of work give way. A run that proves a new model is ended, and begins anew in the next gap.
Another process (a shadow) is stopped where it is, and goes on in the next gap. What can't be ended
(the making of a session, the return of memory) only begins with a gap.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from math import inf
from threading import Condition
from typing import Protocol, TypeVar

import onnxruntime as ort

T = TypeVar("T")
# How long a load waits for gaps between requests, and begins anew, altogether: a service that never
# rests changes its model as well. At a third of what it can bear, the golden samples of a VGG-19 of
# 64 px take 1 to 2 s of it.
_PATIENCE_S = 10.0
# Of a gap. The answer of the request before it is written first: it would wait for the threads of a
# run that began at once. Who waits for the beginning has been told soon after, if the machine isn't
# too busy for a run anyway.
_SETTLING_S = 0.003
_BEGINNING_S = 0.01
_RECENTLY_S = 1.0  # requests that are further apart hardly meet what a load does
_LONG_GAP = 3.0  # times a run


class Pausable(Protocol):
    """Work that can stop at any instant and go on from there. Neither call waits or raises; both
    are made with `Traffic`'s lock held, so that they never cross."""

    def pause(self) -> None: ...
    def resume(self) -> None: ...


class Traffic:
    """The requests that are under way, and what gives way to them. From any thread."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._requests = 0
        self._alone_since = 0.0  # since the last change, while there are fewer than two
        self._gives_way: ort.RunOptions | None = None
        self._pausable: Pausable | None = None

    @property
    def requests(self) -> int:
        """How many are under way."""
        return self._requests

    @property
    def is_busy(self) -> bool:
        """Whether a request is under way, or has been within the last second."""
        with self._changed:
            return self._requests > 0 or time.perf_counter() - self._alone_since < _RECENTLY_S

    @property
    def alone_s(self) -> float:
        """How long the one that is under way has been the only one; 0.0: it isn't, or none is. What
        it did in that time took as long as it takes, for nothing was beside it."""
        with self._changed:
            return time.perf_counter() - self._alone_since if self._requests == 1 else 0.0

    def enter(self) -> None:
        """A request begins, before its images are decoded. What gives way ends at its next node: of
        VGG-19 within some milliseconds."""
        with self._changed:
            self._requests += 1
            self._alone_since = time.perf_counter()
            if self._gives_way is not None:
                self._gives_way.terminate = True
            if self._pausable is not None:
                self._pausable.pause()

    def leave(self) -> None:
        """It is answered, or failed."""
        with self._changed:
            self._requests -= 1
            self._alone_since = time.perf_counter()
            if not self._requests:
                self._changed.notify_all()
                if self._pausable is not None:
                    self._pausable.resume()

    @contextmanager
    def only_in_gaps(self, work: Pausable) -> Iterator[None]:
        """Have `work` go on while no request is under way, and stand still otherwise. After the
        block it is left to go on. One at a time."""
        with self._changed:
            self._pausable = work
            if self._requests:
                work.pause()
        try:
            yield
        finally:
            with self._changed:
                self._pausable = None
                work.resume()

    def wait_for_gap(self, wait_s: float) -> bool:
        """Wait until no request is under way; whether that came within `wait_s`."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._requests, wait_s)

    def take_gap(self, run: ort.RunOptions, wait_s: float, usual_s: float = 0.0) -> bool:
        """As `wait_for_beginning`; from then on `run` gives way to the next request."""
        with self._changed:  # also while it returns: no request comes between
            has_gap = self.wait_for_beginning(wait_s, usual_s)
            self._gives_way = run if has_gap else None
            return has_gap

    def wait_for_beginning(self, wait_s: float, usual_s: float) -> bool:
        """Wait for a gap that has room for what takes `usual_s`; whether that came within `wait_s`.

        It has to begin when the gap does, or when the gap has lasted much longer than that: the
        rest of a gap that has room for one run and a half would be spent on one that the next
        request meets, and is delayed by.
        """
        ends = time.perf_counter() + wait_s
        with self._changed:
            while (begins_in_s := self._begins_in_s(usual_s)) > 0:
                left_s = ends - time.perf_counter()
                if left_s <= 0:
                    return False
                self._changed.wait(min(begins_in_s, left_s))
            return True

    def _begins_in_s(self, usual_s: float) -> float:
        """How long until a run may begin, if nothing changes."""
        if self._requests:
            return inf
        gap_s = time.perf_counter() - self._alone_since
        if gap_s < _SETTLING_S:
            return _SETTLING_S - gap_s
        return 0.0 if gap_s <= _SETTLING_S + _BEGINNING_S else _LONG_GAP * usual_s - gap_s

    def end_gap(self) -> None:
        """Nothing gives way any more."""
        with self._changed:
            self._gives_way = None


class Courtesy:
    """What one load does between requests, in its threads. Its runs are alike.

    Args:
        patience_s: how long it waits and begins anew altogether; then it runs in spite of them.
    """

    def __init__(self, traffic: Traffic, patience_s: float = _PATIENCE_S) -> None:
        self._traffic = traffic
        self._left_s = patience_s
        self._longest_s = 0.0

    def wait(self) -> None:
        """Between two steps of other work: until no request is under way, or its patience ends."""
        self._spend(self._traffic.wait_for_gap)

    def wait_for_beginning(self, usual_s: float) -> None:
        """Before work that takes `usual_s` and can't be ended: until a gap has room for it, or its
        patience ends."""
        self._spend(partial(self._traffic.wait_for_beginning, usual_s=usual_s))

    def _spend(self, wait: Callable[[float], bool]) -> None:
        """wait: for something, for so many seconds at most."""
        if self._left_s > 0:
            since = time.monotonic()
            wait(self._left_s)
            self._left_s -= time.monotonic() - since

    def run(self, work: Callable[[ort.RunOptions], T]) -> T:
        """What `work` returns, which is called again where a request has ended its run.

        Args:
            work: runs a session once, with these options.
        """
        while self._left_s > 0:
            options = ort.RunOptions()
            waits_since = time.monotonic()
            has_gap = self._traffic.take_gap(options, self._left_s, self._longest_s)
            runs_since = time.monotonic()
            self._left_s -= runs_since - waits_since
            if not has_gap:
                break
            try:
                result = work(options)
                self._longest_s = max(self._longest_s, time.monotonic() - runs_since)
                return result
            except Exception:
                if not options.terminate:
                    raise
                self._left_s -= time.monotonic() - runs_since
            finally:
                self._traffic.end_gap()
        return work(ort.RunOptions())
