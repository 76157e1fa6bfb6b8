"""Threads that work for an event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class _Task:
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    future: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None


class Workers:
    """As a `ThreadPoolExecutor` behind `loop.run_in_executor`, for a third of its price.

    There each call makes a second future with a lock and a condition, and wakes the loop by itself;
    that was an eighth of what a request cost the loop (docs/benchmarks.md). Here the loop is woken
    once for all results that are ready.

    The threads are daemons: one that hangs in native code doesn't keep the process alive.

    All methods belong to one event loop.
    """

    def __init__(self, count: int, name: str) -> None:
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()
        self._ended: deque[_Task] = deque()
        self._is_loop_woken = False
        self._threads = [
            Thread(target=self._work, name=f"{name}_{number}", daemon=True)
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def run(self, function: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
        """Call a function in a thread. If the future is cancelled before, it isn't called.

        Returns:
            of its result or its exception.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._tasks.put(_Task(function, arguments, future))
        return future

    def close(self) -> None:
        """Let the threads end after what they have been given; doesn't wait for them."""
        for _ in self._threads:
            self._tasks.put(None)

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            if task.future.cancelled():
                continue
            try:
                task.result = task.function(*task.arguments)
            except StopIteration as error:  # a future can't hold one
                task.error = RuntimeError(f"StopIteration: {error.value}")
            except BaseException as error:
                task.error = error
            self._ended.append(task)
            # If it is woken already, it hasn't begun to look: it clears the mark before it does.
            if not self._is_loop_woken:
                self._is_loop_woken = True
                with suppress(RuntimeError):  # the loop is closed: nobody waits for results
                    task.future.get_loop().call_soon_threadsafe(self._deliver)
            del task  # while waiting for the next, nothing of this one is kept

    def _deliver(self) -> None:
        self._is_loop_woken = False
        while self._ended:
            task = self._ended.popleft()
            if task.future.done():  # cancelled meanwhile
                continue
            if task.error is None:
                task.future.set_result(task.result)
            else:
                task.future.set_exception(task.error)
