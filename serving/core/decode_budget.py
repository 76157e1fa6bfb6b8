"""Threads that decode images, and how much may wait for them. Knows no transport and no format.

Promise: images and bytes that wait are bounded, and what comes beyond is refused at once; the
pixels that are decoded at once are bounded; and an image waits for those that are as large or
smaller, not behind larger ones.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from models.errors import TooManyPixels
from serving.core.errors import Overloaded
from serving.core.workers import Workers

# Up to so many pixels an image is decoded in its turn, in a few milliseconds; a larger one has
# threads of its own, so that it takes none from these. An upload of a photograph made for the web
# is below, one as a camera writes it above.
SMALL_PIXELS = 2_000_000

R = TypeVar("R")
D = TypeVar("D", covariant=True)


@dataclass(frozen=True)
class DecodeLimits:
    """How much may be under way, in all requests.

    Args:
        max_images: that wait or are decoded. max_bytes: of them, encoded.
        max_pixels: decoded at once, of images above `SMALL_PIXELS`; one that is larger than this
            is decoded alone. Of the smaller ones each thread has one.
    """

    max_images: int = 256
    max_bytes: int = 512_000_000
    max_pixels: int = 100_000_000


class Decode(Protocol[D]):
    """Decodes an image, in a thread.

    Args:
        name: of the image, for its error. max_pixels: None: as many as a request may send.

    Raises:
        TooManyPixels: before anything is decoded, where there are more than `max_pixels` but no
            more than a request may send.
    """

    def __call__(self, name: str, image: bytes, max_pixels: int | None) -> D: ...


@dataclass(order=True, slots=True)
class _Large(Generic[R]):
    """Waits for its turn among the large ones."""

    turn: float
    number: int
    pixels: int = field(compare=False)
    name: str = field(compare=False)
    image: bytes = field(compare=False)
    decode: Decode[R] = field(compare=False)
    result: asyncio.Future[R] = field(compare=False)


class DecodeBudget:
    """Decodes for all requests. All methods belong to one event loop.

    Large images take turns by self-clocked fair queueing: an image's turn is that of the one which
    was started last before it came, plus its own pixels. So a smaller one overtakes larger ones
    that came shortly before it, and none waits for ever.

    Args:
        threads: for the small images, and as many for the large ones.
    """

    def __init__(self, threads: int, limits: DecodeLimits | None = None) -> None:
        self._limits = limits or DecodeLimits()
        self._threads = threads
        self._small = Workers(threads, "decode")
        self._big = Workers(threads, "decode_large")
        self._images = self._bytes = 0  # under way
        self._waiting: list[_Large[Any]] = []  # a heap
        self._numbers = itertools.count()
        self._clock = 0.0  # the turn of the large image that was started last
        self._running = self._pixels = 0  # large ones, and their pixels

    async def decode(self, images: Sequence[bytes], decode: Decode[R]) -> list[R]:
        """What `decode` gives for each image, in their order.

        Raises:
            Overloaded: too much is under way; nothing was begun.
        """
        size = sum(map(len, images))
        self._check_room(len(images), size)
        self._images += len(images)
        self._bytes += size
        try:
            return await self._decode_all(images, decode)
        finally:
            self._images -= len(images)
            self._bytes -= size

    def close(self) -> None:
        """Let the threads end after what they have been given; doesn't wait for them."""
        self._small.close()
        self._big.close()

    def _check_room(self, count: int, size: int) -> None:
        if self._images + count > self._limits.max_images:
            raise Overloaded(
                f"{self._images} images are waiting to be decoded, the limit is "
                f"{self._limits.max_images} (VGG19_MAX_QUEUE_IMAGES); try again later"
            )
        if self._images and self._bytes + size > self._limits.max_bytes:
            raise Overloaded(
                f"images of {self._bytes:,} bytes are waiting to be decoded, the limit is "
                f"{self._limits.max_bytes:,} (VGG19_MAX_INFLIGHT_BYTES); try again later"
            )

    async def _decode_all(self, images: Sequence[bytes], decode: Decode[R]) -> list[R]:
        if len(images) == 1:  # as most requests are; `gather` costs more than the rest of this
            row: R | TooManyPixels
            row = await self._small.run(_decode_small, decode, "", images[0])
            if isinstance(row, TooManyPixels):
                return [await self._in_turn("", images[0], row.pixels, decode)]
            return [row]
        names = [f"image {index}" for index in range(len(images))]
        rows = await asyncio.gather(
            *(
                self._small.run(_decode_small, decode, name, image)
                for name, image in zip(names, images, strict=True)
            )
        )
        turns = [
            self._in_turn(names[index], images[index], row.pixels, decode)
            for index, row in enumerate(rows)
            if isinstance(row, TooManyPixels)
        ]
        large = iter(await asyncio.gather(*turns) if turns else ())
        return [next(large) if isinstance(row, TooManyPixels) else row for row in rows]

    def _in_turn(
        self, name: str, image: bytes, pixels: int, decode: Decode[R]
    ) -> asyncio.Future[R]:
        """If it is cancelled before its turn, it is not decoded."""
        result: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        turn = self._clock + pixels
        large: _Large[Any] = _Large(turn, next(self._numbers), pixels, name, image, decode, result)
        heapq.heappush(self._waiting, large)
        self._start_large()
        return result

    def _start_large(self) -> None:
        while self._waiting and self._running < self._threads:
            large = self._waiting[0]
            if large.result.cancelled():  # its request has ended
                heapq.heappop(self._waiting)
                continue
            if self._running and self._pixels + large.pixels > self._limits.max_pixels:
                return  # nor any behind it, or it would wait for ever
            heapq.heappop(self._waiting)
            self._clock = large.turn
            self._running += 1
            self._pixels += large.pixels
            # Its pixels count until the thread has ended, also where nobody waits any more.
            running = self._big.run(large.decode, large.name, large.image, None)
            running.add_done_callback(partial(self._ended, large))

    def _ended(self, large: _Large[R], ended: asyncio.Future[R]) -> None:
        self._running -= 1
        self._pixels -= large.pixels
        error = ended.exception()
        if not large.result.done():
            if error is None:
                large.result.set_result(ended.result())
            else:
                large.result.set_exception(error)
        self._start_large()


def _decode_small(decode: Decode[R], name: str, image: bytes) -> R | TooManyPixels:
    """In a thread: the image, or that it is to have its turn among the large ones."""
    try:
        return decode(name, image, SMALL_PIXELS)
    except TooManyPixels as error:
        return error
