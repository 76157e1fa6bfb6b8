"""When a shadow's process may compute: seldom where a request would find it computing.

Promise: of any N requests of this worker, at most 1 + N / 1000 begin while the process computes. It
is stopped then, but the request has had the worse of it: cores that were taken, and cold caches. So
few requests are slower, however much that costs each, and a p99 stays nearly where it was.

No forecast is needed for that: who finds it computing takes the credit that 1000 requests give, and
without credit the process stands still. Where requests are rare it computes nearly always, and
where there is no gap, never.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Condition, Thread

from serving.engine.right_of_way import Pausable

# A tenth of the 1% that a p99 leaves out. With 200, half of it, a p99 rose by 19%:
# docs/rollout.md.
REQUESTS_A_MEETING = 1000
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
        quiet_s: that must have passed without a request before it computes.
        clock: in seconds.
    """

    def __init__(
        self,
        process: Pausable,
        quiet_s: float = _QUIET_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._process = process
        self._quiet_s = quiet_s
        self._clock = clock
        self._changed = Condition()
        self._credit = REQUESTS_A_MEETING  # in requests
        self._under_way = False
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
            self._under_way = True
            self._credit = min(REQUESTS_A_MEETING, self._credit + 1)
            if self._computes:
                self._computes = False
                self._credit -= REQUESTS_A_MEETING
                self.met += 1
                self._process.pause()

    def resume(self) -> None:
        """No request is under way any more. That alone lets nothing go on."""
        with self._changed:
            self._under_way = False
            self._quiet_since = self._clock()

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
        has_credit = self._credit >= REQUESTS_A_MEETING
        return has_credit and not self._under_way and quiet_s >= self._quiet_s

    @property
    def _look_s(self) -> float:
        return _LOOK_S if self._credit >= REQUESTS_A_MEETING else _REST_S

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
