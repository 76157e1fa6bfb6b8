"""When a shadow's process may compute: seldom where a request would be much slower by it.

A request that finds the process computing stops it, but has had the worse of it: cores that were
taken, and cold caches. That costs most of them less than half a millisecond (docs/rollout.md), so
it depends on the requests how many may:

- Where a request takes long beside that, any of them.
- Else, of any N requests of this worker, at most 1 + N / 1000. So few are slower, however much that
  costs each, and a p99 stays nearly where it was. No forecast is needed for that: who finds it
  computing takes the credit that 1000 requests give, and without credit the process stands still.

Where requests are rare it computes nearly always, and where there is no gap, never.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from threading import Condition, Thread

from serving.engine.right_of_way import Pausable

# A tenth of the 1% that a p99 leaves out. With 200, half of it, a p99 rose by 19%:
# docs/rollout.md.
REQUESTS_A_MEETING = 1000
# From here on half a millisecond is less than the 5% by which a p99 may rise, twice over.
LONG_REQUEST_S = 0.02
# What a request takes is the median of the last ones that had nothing beside them; known from so
# many on.
_LAST_REQUESTS, _KNOWN_FROM = 25, 5
# After the last answer. It isn't written to its socket yet, and a client that asks again when it
# has an answer does so by then, if it is near.
_QUIET_S = 0.001
# Between two looks for a gap, where there is credit: nobody who answers a request tells of one.
_LOOK_S = 0.005
# Where nothing is to be done before many further requests, or something else wakes it anyway.
_REST_S = 0.2


class IdleTime:
    """What `Traffic.only_in_gaps` stops and lets go on in a process's place, while a shadow runs.

    Args:
        process: stopped and continued; it is running.
        stops_at_once: whether it stands still as soon as it is told to, for every request that
            shares a core with it. What a GPU was given comes to its end, and requests of other
            workers don't stop it.
        quiet_s: that must have passed without a request before it computes.
        clock: in seconds.
    """

    def __init__(
        self,
        process: Pausable,
        *,
        stops_at_once: bool,
        quiet_s: float = _QUIET_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._process = process
        self._stops_at_once = stops_at_once
        self._quiet_s = quiet_s
        self._clock = clock
        self._changed = Condition()
        self._credit = REQUESTS_A_MEETING  # in requests
        self._under_way = 0  # since no request was
        self._busy_since = 0.0
        self._lone_s: deque[float] = deque(maxlen=_LAST_REQUESTS)
        self._quiet_since = clock() - quiet_s
        self._has_work = False
        self._computes = False
        self._closed = False
        self.met = 0
        """Requests that found it computing."""
        self._thread = Thread(target=self._let_go, name="shadow idle time", daemon=True)
        self._thread.start()

    def pause(self) -> None:
        """A request begins."""
        with self._changed:
            self._under_way += 1
            if self._under_way == 1:
                self._busy_since = self._clock()
            self._credit = min(REQUESTS_A_MEETING, self._credit + 1)
            if self._computes:
                self._computes = False
                if not self._takes_long:
                    self._credit -= REQUESTS_A_MEETING
                self.met += 1
                self._process.pause()

    def resume(self) -> None:
        """No request is under way any more. That alone lets nothing go on."""
        with self._changed:
            self._quiet_since = self._clock()
            if self._under_way == 1:
                self._lone_s.append(self._quiet_since - self._busy_since)
            self._under_way = 0

    def wait(self, wait_s: float) -> bool:
        """Until the process may compute; whether that came within `wait_s`."""
        with self._changed:
            deadline = time.monotonic() + wait_s
            while not self._is_free and not self._closed:
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(min(left, self._look_s))
            return not self._closed

    @contextmanager
    def computing(self) -> Iterator[None]:
        """The process has work in the block, at which it is let when it may be. Afterwards it isn't
        stopped, for it only waits."""
        with self._changed:
            self._has_work = True
            self._computes = self._is_free
            if not self._computes:
                self._process.pause()
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._has_work = self._computes = False
                self._process.resume()

    def close(self) -> None:
        """Its thread ends, and who waits gets False."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def _is_free(self) -> bool:
        """With the lock held."""
        quiet_s = self._clock() - self._quiet_since
        return self._has_credit and not self._under_way and quiet_s >= self._quiet_s

    @property
    def _has_credit(self) -> bool:
        return self._credit >= REQUESTS_A_MEETING or self._takes_long

    @property
    def _takes_long(self) -> bool:
        """Whether a request does, beside what finding the process computing costs it."""
        known = self._stops_at_once and len(self._lone_s) >= _KNOWN_FROM
        return known and median(self._lone_s) >= LONG_REQUEST_S

    @property
    def _look_s(self) -> float:
        return _LOOK_S if self._has_credit else _REST_S

    def _let_go(self) -> None:
        """In a thread of its own: whoever gave the process its work may be stuck in giving it, as
        a large image fits no socket's buffer."""
        with self._changed:
            while not self._closed:
                stands = self._has_work and not self._computes
                if stands and self._is_free:
                    self._computes = True
                    self._process.resume()
                    stands = False
                self._changed.wait(self._look_s if stands else _REST_S)
