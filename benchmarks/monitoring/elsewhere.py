"""A client as if it were on another machine: what computes beside the service doesn't delay it.

It shares the cores with the service, so it has real-time priority, above which is only what watches
for stalls (`benchmarks.monitoring.stalls`), and does little for a request: bytes on a connection
that is kept open, without an HTTP library.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.serving.model_change import Request

_PRIORITY = 50
_END_OF_HEAD = b"\r\n\r\n"


@contextmanager
def undisturbed() -> Iterator[None]:
    """The calling thread has real-time priority in the block.

    Raises:
        PermissionError: no right to it (CAP_SYS_NICE).
    """
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_PRIORITY))
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


class Client:
    """Posts one image to `/classify`, over as many connections as it needs at a time."""

    def __init__(self, port: int, image: bytes) -> None:
        self._port = port
        head = (
            f"POST /classify HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: image/jpeg\r\n"
            f"Content-Length: {len(image)}\r\n\r\n"
        )
        self._message = head.encode() + image
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, due: float) -> Request:
        """One request that was due at that time, by the monotonic clock."""
        try:
            reader, writer = self._free.pop() if self._free else await self._connect()
            writer.write(self._message)
            head = await reader.readuntil(_END_OF_HEAD)
            await reader.readexactly(_length(head))
        except (OSError, EOFError) as error:
            return Request(due, time.monotonic(), problem=f"{type(error).__name__}: {error}")
        self._free.append((reader, writer))
        status = head.split(maxsplit=2)[1].decode()
        return Request(due, time.monotonic(), problem="" if status == "200" else status)

    def close(self) -> None:
        """Its connections end; the next request opens new ones."""
        for _, writer in self._free:
            writer.close()
        self._free.clear()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self._port)


def _length(head: bytes) -> int:
    """Of the body after a head."""
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0
