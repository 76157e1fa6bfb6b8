"""Requests that are sent when they are due, whatever became of those before them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def constant(rate: float) -> Callable[[], float]:
    """Seconds from one request to the next: always the same."""
    return lambda: 1 / rate


def at_random(rate: float, seed: int) -> Callable[[], float]:
    """As of many clients that know nothing of each other (Poisson)."""
    draw = np.random.default_rng(seed)
    return lambda: float(draw.exponential(1 / rate))


@asynccontextmanager
async def load(
    ask: Callable[[float], Awaitable[T]], gap: Callable[[], float]
) -> AsyncIterator[list[T]]:
    """What requests come to that are sent while the block runs; complete after it.

    Args:
        ask: sends one, which was due at that time by the monotonic clock.
        gap: seconds from when one is due to when the next is.
    """
    requests: list[T] = []
    stopped = asyncio.Event()

    async def ask_and_note(due: float) -> None:
        requests.append(await ask(due))

    async def send() -> None:
        due = time.monotonic()
        async with asyncio.TaskGroup() as group:
            while not stopped.is_set():
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                group.create_task(ask_and_note(due))
                due += gap()

    sending = asyncio.create_task(send())
    try:
        yield requests
    finally:
        stopped.set()
        await sending
