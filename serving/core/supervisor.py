"""Work in the background never dies in silence: the watch over promotions, loads, the capture of
images, heat maps.

Promise: whatever exception one of them meets is logged once with its cause and counted, the work is
tried again after a pause that grows, and `failing` says what has failed several times running.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from threading import Lock
from typing import NoReturn

from models.errors import UserError

logger = logging.getLogger(__name__)

_MAX_PAUSE_S = 60.0


class Supervisor:
    """Keeps account of what fails in the background. Callable from any thread.

    Args:
        on_failure: called with the name of the work at each failure, for metrics.
        tolerated: failures running, from which on work counts as `failing`.
        max_pause_s: the longest pause before the next try.
    """

    def __init__(
        self,
        on_failure: Callable[[str], None] = lambda work: None,
        *,
        tolerated: int = 3,
        max_pause_s: float = _MAX_PAUSE_S,
    ) -> None:
        self._on_failure = on_failure
        self._tolerated = tolerated
        self._max_pause_s = max_pause_s
        self._lock = Lock()
        self._failures: dict[str, int] = {}  # of each work, running
        self._told: dict[str, str] = {}

    @property
    def failing(self) -> list[str]:
        """The work that has failed `tolerated` times running, or more often."""
        with self._lock:
            return sorted(w for w, count in self._failures.items() if count >= self._tolerated)

    def failed(self, work: str, error: BaseException) -> float:
        """Count a failure, and log it unless it is the same as the one before.

        Returns:
            how many seconds to wait before the next try: 0 after the first failure.
        """
        cause = f"{type(error).__name__}: {error}"
        with self._lock:
            count = self._failures[work] = self._failures.get(work, 0) + 1
            is_new = self._told.get(work) != cause
            self._told[work] = cause
        self._on_failure(work)
        if is_new and isinstance(error, UserError | OSError):  # its text says all
            logger.warning("%s: %s", work, error)
        elif is_new:
            logger.error("%s failed", work, exc_info=error)
        return float(min(self._max_pause_s, 2 ** min(count - 1, 20) - 1))

    def succeeded(self, work: str) -> None:
        """It went well; logged where it had failed before."""
        if work not in self._failures:  # as nearly always: no lock
            return
        with self._lock:
            count = self._failures.pop(work, 0)
            self._told.pop(work, None)
        logger.info("%s: recovered after %d failures", work, count)

    async def repeat(
        self,
        work: str,
        step: Callable[[], Awaitable[None]],
        every_s: float,
        after_step: Callable[[], Awaitable[None]] | None = None,
        max_pause_s: float = _MAX_PAUSE_S,
    ) -> NoReturn:
        """Take a step every `every_s` seconds, until this task is cancelled.

        Args:
            after_step: called after each one, whether or not it failed; what it raises counts, too.
            max_pause_s: the longest pause after failures, beside `every_s`.
        """
        task = asyncio.current_task()
        assert task is not None
        while True:
            pause_s = 0.0
            await asyncio.sleep(every_s)
            try:
                try:
                    await step()
                finally:
                    if after_step is not None and not task.cancelling():
                        await after_step()
            except (Exception, asyncio.CancelledError) as error:
                # What the step waited for may be cancelled by others; that doesn't end the work.
                if task.cancelling():
                    raise
                pause_s = self.failed(work, error)
            else:
                self.succeeded(work)
            await asyncio.sleep(min(pause_s, max_pause_s))
