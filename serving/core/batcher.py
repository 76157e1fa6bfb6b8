"""Gathers single items from all requests into batches. Knows no model and no transport."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from serving.core.errors import Overloaded, ShuttingDown
from serving.core.workers import Workers

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")


class BatchFailed(Exception):
    """`run` raised for an item; the cause is in the log."""


@dataclass(frozen=True, slots=True)
class BatchResult(Generic[R]):
    """The results of what was submitted together, in its order, and how long they took.

    Args:
        queue_s: from the submission until the first of its batches started.
        inference_s: from then until the last of its batches ended.
    """

    results: list[R]
    queue_s: float
    inference_s: float


@dataclass(slots=True, eq=False)
class _Waiting(Generic[T, R]):
    item: T
    result: asyncio.Future[R]
    since: float  # the loop's clock, in s
    started: float = 0.0


class Batcher(Generic[T, R]):
    """Runs `run(items) -> results` in threads, on as many items at once as have gathered.

    A batch starts at once when nothing runs, with all that was submitted in the same turn of the
    event loop: at low load an item waits for nobody. While one runs, items gather for the next,
    which starts when the running one ends; or beside it, where `max_concurrent_batches` allows,
    once it is full or its oldest item has waited `max_delay_s`. There is no other timer: idling
    costs nothing.

    An item whose submitter has given up (cancelled or timed out) is dropped before it reaches
    `run`. Where `run` raises, each item of the batch is run once more, alone, so that only those it
    raises for fail: one bad item doesn't take its neighbours along, nor does a batch that was too
    large for the memory of a GPU.

    All methods belong to one event loop.

    Args:
        run: called with 1..`max_batch_size` items, from several threads if batches may run beside
            each other; gives one result for each item, in their order.
        max_batch_size: items in a batch.
        max_queue: items that may wait for a batch.
        max_delay_s: how long an item may wait for others while a batch runs.
        max_concurrent_batches: batches that run beside each other.
        on_batch: called in the event loop with (items that have a result, how long it took in s)
            after each batch that has any.
        on_queue: called in the event loop with `queue_depth` when it has changed.
    """

    def __init__(
        self,
        run: Callable[[Sequence[T]], Sequence[R]],
        *,
        max_batch_size: int,
        max_queue: int,
        max_delay_s: float = 0.0,
        max_concurrent_batches: int = 1,
        on_batch: Callable[[int, float], None] = lambda size, seconds: None,
        on_queue: Callable[[int], None] = lambda depth: None,
    ) -> None:
        self._run = run
        self.max_batch_size = max_batch_size
        self._max_queue = max_queue
        self.max_delay_s = max_delay_s
        self._max_concurrent = max_concurrent_batches
        self._on_batch = on_batch
        self._on_queue = on_queue
        self._queue: deque[_Waiting[T, R]] = deque()
        self._threads = Workers(max_concurrent_batches, "batch")
        self._running: dict[asyncio.Task[None], float] = {}  # since when, by the loop's clock
        self._wake_up: asyncio.Handle | None = None
        self._closed = False

    @property
    def queue_depth(self) -> int:
        """Items that wait for a batch (given-up ones included, until they are dropped)."""
        return len(self._queue)

    @property
    def running_s(self) -> float:
        """How long the oldest of the batches that run has been running; 0 if none runs."""
        if not self._running:
            return 0.0
        return asyncio.get_running_loop().time() - min(self._running.values())

    async def submit(self, items: Sequence[T]) -> BatchResult[R]:
        """Have items run, in one batch or several, alone or with others', and await the results.

        Raises:
            Overloaded: the queue has no room for all of them; none was accepted.
            ShuttingDown: `close` was called.
            BatchFailed: `run` raised for one of the items.
        """
        self.check_room(len(items))
        loop = asyncio.get_running_loop()
        now = loop.time()
        waiting: list[_Waiting[T, R]] = [
            _Waiting(item, loop.create_future(), now) for item in items
        ]
        self._queue.extend(waiting)
        if not self._running and self._wake_up is None:
            # Not at once: what else comes in this turn of the loop goes along.
            self._wake_up = loop.call_soon(self._start_batches)
        elif self._running:
            self._start_batches()
        self._on_queue(len(self._queue))
        futures = [one.result for one in waiting]
        try:
            results = [await future for future in futures]
            started = min((one.started for one in waiting), default=now)
            return BatchResult(results, started - now, loop.time() - started)
        finally:
            for future in futures:
                future.cancel()  # those not awaited to their end: one failed, or we were cancelled
                if future.done() and not future.cancelled():
                    future.exception()  # retrieved, so that asyncio doesn't log it

    def check_room(self, count: int) -> None:
        """Raise what `submit` would for so many items now; for those who have work before it.

        Raises:
            Overloaded, ShuttingDown: see `submit`.
        """
        if self._closed:
            raise ShuttingDown("the service is shutting down")
        if len(self._queue) + count > self._max_queue:
            # Given-up items must not count against the limit.
            self._queue = deque(w for w in self._queue if not w.result.done())
        if len(self._queue) + count > self._max_queue:
            raise Overloaded(
                f"{len(self._queue)} images are waiting, the limit is {self._max_queue}; "
                "try again later"
            )

    async def close(self, grace_s: float) -> None:
        """Accept no more items, and wait up to `grace_s` seconds for those accepted.

        Items that are not done by then fail with `ShuttingDown`.
        """
        self._closed = True
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace_s
        while self._queue or self._running:
            self._start_batches()
            left = deadline - loop.time()
            if left <= 0 or not self._running:
                break
            await asyncio.wait(self._running, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        _fail(self._queue, ShuttingDown("the service is shutting down"))
        self._queue.clear()
        self._on_queue(0)
        for batch in list(self._running):
            batch.cancel()
        if self._running:
            await asyncio.wait(self._running)
        self._threads.close()

    def _start_batches(self) -> None:
        """Start what is to start now, and have the rest started when its time comes."""
        if self._wake_up is not None:
            self._wake_up.cancel()
            self._wake_up = None
        while self._may_start() and (batch := self._next_batch()):
            loop = asyncio.get_running_loop()
            task = loop.create_task(self._run_batch(batch))
            self._running[task] = loop.time()
            task.add_done_callback(self._ended)
            self._on_queue(len(self._queue))
        if self._queue and self._running and len(self._running) < self._max_concurrent:
            due = self._queue[0].since + self.max_delay_s
            self._wake_up = asyncio.get_running_loop().call_at(due, self._start_batches)

    def _may_start(self) -> bool:
        if not self._queue or len(self._running) >= self._max_concurrent:
            return False
        waited = asyncio.get_running_loop().time() - self._queue[0].since
        full = len(self._queue) >= self.max_batch_size
        return not self._running or full or waited >= self.max_delay_s

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        self._start_batches()

    async def _run_batch(self, batch: list[_Waiting[T, R]]) -> None:
        items = [waiting.item for waiting in batch]
        loop = asyncio.get_running_loop()
        started = loop.time()
        for waiting in batch:
            waiting.started = started
        try:
            results = await self._threads.run(self._run_all, items)
        except asyncio.CancelledError:
            _fail(batch, ShuttingDown("the service is shutting down"))
            raise
        good = sum(not isinstance(result, BatchFailed) for result in results)
        if good:
            self._on_batch(good, loop.time() - started)
        for waiting, result in zip(batch, results, strict=True):
            if waiting.result.done():
                continue
            if isinstance(result, BatchFailed):
                waiting.result.set_exception(result)
            else:
                waiting.result.set_result(result)

    def _run_all(self, items: Sequence[T]) -> Sequence[R | BatchFailed]:
        """In a thread: the results of a batch; where it raises, those of its items run alone."""
        try:
            results = self._run(items)
        except Exception:
            logger.exception("a batch of %d failed", len(items))
            if len(items) == 1:
                return [BatchFailed("the model failed")]
            return [self._run_all([item])[0] for item in items]
        if len(results) != len(items):
            logger.error("a batch of %d gave %d results", len(items), len(results))
            return [BatchFailed("the model lost a result")] * len(items)
        return results

    def _next_batch(self) -> list[_Waiting[T, R]]:
        batch: list[_Waiting[T, R]] = []
        while self._queue and len(batch) < self.max_batch_size:
            waiting = self._queue.popleft()
            if not waiting.result.done():  # done: its submitter has given up
                batch.append(waiting)
        return batch


def _fail(batch: Iterable[_Waiting[T, R]], error: Exception) -> None:
    for waiting in batch:
        if not waiting.result.done():
            waiting.result.set_exception(error)
