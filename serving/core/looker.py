"""Looks at something that may hang, such as network storage, from an event loop.

Promise: a look that hangs takes no thread from anybody else, is waited for and not begun a second
time, and its caller is told after a while.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from serving.core.workers import Workers

T = TypeVar("T")


class Looker(Generic[T]):
    """A thread of its own, for one look after another. Of one event loop.

    Args:
        look: called in the thread; what it raises goes to who asked.
        limit_s: after which who asked gets an error.
        error: makes that one.
    """

    def __init__(
        self, name: str, look: Callable[[], T], limit_s: float, error: Callable[[], Exception]
    ) -> None:
        self._look = look
        self._limit_s = limit_s
        self._error = error
        self._thread = Workers(1, name)
        self._looking: asyncio.Future[T] | None = None

    async def look(self) -> T:
        """What there is now."""
        if self._looking is None:
            self._looking = self._thread.run(self._look)
        done, _ = await asyncio.wait([self._looking], timeout=self._limit_s)
        if not done:
            raise self._error()
        looked, self._looking = self._looking, None
        return looked.result()

    def close(self) -> None:
        """Doesn't wait for a look that is under way."""
        self._thread.close()
