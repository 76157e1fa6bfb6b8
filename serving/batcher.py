"""Gathers single items from all requests into batches. Knows no model and no transport."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from serving.errors import Overloaded, ShuttingDown

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")


class BatchFailed(Exception):
    """The run of the batch that an item was in raised; the cause is in the log."""


@dataclass(slots=True, eq=False)
class _Waiting(Generic[T, R]):
    item: T
    result: asyncio.Future[R]


class Batcher(Generic[T, R]):
    """Runs `run(items) -> results` in a thread, one batch at a time.

    A batch starts at once when nothing runs, with all that was submitted in the same turn of the
    event loop: at low load an item waits for nobody. While a batch runs, items gather for the
    next. An item whose submitter has given up (cancelled or timed out) is dropped before it
    reaches `run`. An exception of `run` fails the items of that batch only.

    All methods belong to one event loop.

    Args:
        run: called with 1..`max_batch_size` items; gives one result for each, in their order.
        max_batch_size: items in a batch.
        max_queue: items that may wait for a batch.
    """

    def __init__(
        self, run: Callable[[Sequence[T]], Sequence[R]], *, max_batch_size: int, max_queue: int
    ) -> None:
        self._run = run
        self._max_batch_size = max_batch_size
        self._max_queue = max_queue
        self._queue: deque[_Waiting[T, R]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batch")
        self._worker: asyncio.Task[None] | None = None
        self._closed = False

    async def submit(self, items: Sequence[T]) -> list[R]:
        """Have items run, in one batch or several, alone or with others', and await the results.

        Raises:
            Overloaded: the queue has no room for all of them; none was accepted.
            ShuttingDown: `close` was called.
            BatchFailed: `run` raised for a batch that one of the items was in.
        """
        if self._closed:
            raise ShuttingDown("the service is shutting down")
        if len(self._queue) + len(items) > self._max_queue:
            # Given-up items must not count against the limit.
            self._queue = deque(w for w in self._queue if not w.result.done())
        if len(self._queue) + len(items) > self._max_queue:
            raise Overloaded(
                f"{len(self._queue)} images are waiting, the limit is {self._max_queue}; "
                "try again later"
            )
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[R]] = [loop.create_future() for _ in items]
        self._queue.extend(map(_Waiting, items, futures))
        if self._worker is None:
            self._worker = loop.create_task(self._work())
        try:
            return [await future for future in futures]
        finally:
            for future in futures:
                future.cancel()  # those not awaited to their end: one failed, or we were cancelled
                if future.done() and not future.cancelled():
                    future.exception()  # retrieved, so that asyncio doesn't log it

    async def close(self, grace_s: float) -> None:
        """Accept no more items, and wait up to `grace_s` seconds for those accepted.

        Items that are not done by then fail with `ShuttingDown`.
        """
        self._closed = True
        if self._worker is not None:
            worker = self._worker
            await asyncio.wait([worker], timeout=grace_s)
            worker.cancel()
            await asyncio.wait([worker])
        _fail(self._queue, ShuttingDown("the service is shutting down"))
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _work(self) -> None:
        """Run batches until nothing waits; the next `submit` starts anew: idling costs nothing."""
        try:
            while batch := self._next_batch():
                await self._run_batch(batch)
        finally:
            self._worker = None

    async def _run_batch(self, batch: list[_Waiting[T, R]]) -> None:
        items = [waiting.item for waiting in batch]
        loop = asyncio.get_running_loop()
        try:
            results = await loop.run_in_executor(self._thread, self._run_checked, items)
        except Exception:
            logger.exception("a batch of %d failed", len(batch))
            _fail(batch, BatchFailed("the batch failed"))
        except asyncio.CancelledError:
            _fail(batch, ShuttingDown("the service is shutting down"))
            raise
        else:
            for waiting, result in zip(batch, results, strict=True):
                if not waiting.result.done():
                    waiting.result.set_result(result)

    def _run_checked(self, items: Sequence[T]) -> Sequence[R]:
        results = self._run(items)
        if len(results) != len(items):
            raise RuntimeError(f"{len(items)} items gave {len(results)} results")
        return results

    def _next_batch(self) -> list[_Waiting[T, R]]:
        batch: list[_Waiting[T, R]] = []
        while self._queue and len(batch) < self._max_batch_size:
            waiting = self._queue.popleft()
            if not waiting.result.done():  # done: its submitter has given up
                batch.append(waiting)
        return batch


def _fail(batch: Iterable[_Waiting[T, R]], error: Exception) -> None:
    for waiting in batch:
        if not waiting.result.done():
            waiting.result.set_exception(error)
