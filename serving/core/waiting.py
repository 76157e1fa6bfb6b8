"""Waits for work that goes on when its caller gives up."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from serving.core.errors import ShuttingDown

T = TypeVar("T")


async def outlasting(task: asyncio.Task[T]) -> T:
    """Its result. Where the caller is cancelled it goes on, since others may wait for it.

    Raises:
        ShuttingDown: the task was cancelled: the service is closing.
    """
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if task.cancelled():
            raise ShuttingDown("the service is shutting down") from None
        raise
