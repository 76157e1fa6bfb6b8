"""Counts and order, no times: what decodes is held at a gate."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator

import pytest

from models.errors import TooManyPixels
from serving.core.decode_budget import SMALL_PIXELS, DecodeBudget, DecodeLimits
from serving.core.errors import Overloaded
from testing.waiting import HANG_S

MILLION = 1_000_000


class Decoder:
    """An image says its pixels, in millions: `b"25"`. Large ones wait at a gate."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.started: list[int] = []
        self.pixels = self.most_pixels = self.running = 0
        self._lock = threading.Lock()

    def __call__(self, name: str, image: bytes, max_pixels: int | None) -> str:
        millions = int(image)
        if max_pixels is not None and millions * MILLION > max_pixels:
            raise TooManyPixels(millions, MILLION, max_pixels)
        if millions * MILLION <= SMALL_PIXELS:
            return f"{name}:{millions}"
        with self._lock:
            self.started.append(millions)
            self.running += 1
            self.pixels += millions
            self.most_pixels = max(self.most_pixels, self.pixels)
        assert self.gate.wait(timeout=HANG_S)
        with self._lock:
            self.running -= 1
            self.pixels -= millions
        if millions == 99:
            raise ValueError("damaged")
        return f"{name}:{millions}"


@pytest.fixture
def decoder() -> Decoder:
    return Decoder()


def budget_of(threads: int = 2, **limits: int) -> DecodeBudget:
    return DecodeBudget(threads, DecodeLimits(**limits))


@pytest.fixture(autouse=True)
async def open_gate(decoder: Decoder) -> AsyncIterator[None]:
    yield
    decoder.gate.set()


async def until_started(decoder: Decoder, count: int) -> None:
    async with asyncio.timeout(HANG_S):
        while len(decoder.started) < count:
            await asyncio.sleep(0.01)


async def behind_the_small_ones(budget: DecodeBudget, decoder: Decoder) -> None:
    """Until all that was asked for before has been looked at, so that large ones wait for their
    turns: each image is first in the queue of the small ones."""
    for _ in range(5):
        await asyncio.sleep(0)
        await budget.decode([b"1"], decoder)


async def test_results_are_in_their_order_whatever_their_sizes(decoder: Decoder) -> None:
    decoder.gate.set()
    budget = budget_of(3)
    rng = random.Random(0)
    for count in (1, 2, 7, 64):
        sizes = [rng.choice([1, 2, 3, 25, 60]) for _ in range(count)]
        found = await budget.decode([str(size).encode() for size in sizes], decoder)
        if count == 1:
            assert found == [f":{sizes[0]}"]
        else:
            assert found == [f"image {index}:{size}" for index, size in enumerate(sizes)]
    budget.close()


@pytest.mark.parametrize("max_images", [1, 8, 32])
async def test_beyond_the_images_that_may_wait_all_are_refused_at_once(
    decoder: Decoder, max_images: int
) -> None:
    """60 large images against a queue of 8 gave 59 timeouts and no refusal."""
    budget = budget_of(max_images=max_images)
    asking = [asyncio.create_task(budget.decode([b"25"], decoder)) for _ in range(60)]
    await until_started(decoder, min(2, max_images))
    refused = [one for one in asking if one.done()]
    assert len(refused) == 60 - max_images  # and nothing was decoded yet
    with pytest.raises(Overloaded, match=rf"the limit is {max_images} \(VGG19_MAX_QUEUE_IMAGES"):
        refused[0].result()
    decoder.gate.set()
    answers = await asyncio.gather(*(one for one in asking if one not in refused))
    assert answers == [[":25"]] * max_images
    assert await budget.decode([b"25"], decoder) == [":25"]
    for one in refused:
        one.exception()
    budget.close()


@pytest.mark.parametrize("max_bytes", [2, 10, 101])
async def test_bytes_that_wait_are_bounded(decoder: Decoder, max_bytes: int) -> None:
    budget = budget_of(max_bytes=max_bytes)
    asking = [asyncio.create_task(budget.decode([b"25"], decoder)) for _ in range(60)]
    await until_started(decoder, 1)
    refused = [one for one in asking if one.done()]
    assert len(refused) == 60 - max_bytes // 2
    with pytest.raises(Overloaded, match="VGG19_MAX_INFLIGHT_BYTES"):
        refused[0].result()
    decoder.gate.set()
    await asyncio.gather(*asking, return_exceptions=True)
    assert await budget.decode([b"000000000000000001"], decoder) == [":1"]  # alone it may
    budget.close()


@pytest.mark.parametrize("threads", [1, 2, 4])
async def test_small_images_pass_large_ones_that_hold_all_their_threads(
    decoder: Decoder, threads: int
) -> None:
    budget = budget_of(threads)
    large = [asyncio.create_task(budget.decode([b"25"], decoder)) for _ in range(20)]
    await until_started(decoder, threads)
    for _ in range(100):
        async with asyncio.timeout(HANG_S):
            assert await budget.decode([b"1"], decoder) == [":1"]
    assert not any(one.done() for one in large)
    decoder.gate.set()
    await asyncio.gather(*large)
    budget.close()


async def test_a_smaller_one_overtakes_larger_ones_but_not_for_ever(decoder: Decoder) -> None:
    budget = budget_of(1)
    first = asyncio.create_task(budget.decode([b"80"], decoder))
    await until_started(decoder, 1)
    rest = asyncio.create_task(budget.decode([b"80", b"80", b"25", *[b"3"] * 60], decoder))
    await behind_the_small_ones(budget, decoder)
    decoder.gate.set()
    await asyncio.gather(first, rest)
    assert decoder.started == [80, *[3] * 60, 25, 80, 80]

    decoder.gate.clear()
    decoder.started.clear()
    waiting = [asyncio.create_task(budget.decode([b"80"], decoder)) for _ in range(2)]
    await until_started(decoder, 1)
    await behind_the_small_ones(budget, decoder)
    decoder.gate.set()

    async def one_after_another() -> None:
        while not all(one.done() for one in waiting):
            await budget.decode([b"3"], decoder)

    await asyncio.gather(*(one_after_another() for _ in range(4)))
    # Each client's next image has a later turn: at most 80 / 3 of each of the four pass.
    assert decoder.started.index(80, 1) <= 4 * (80 // 3 + 2)
    budget.close()


@pytest.mark.parametrize("max_pixels", [1, 30, 60, 100])
async def test_pixels_at_once_are_bounded_and_all_are_decoded(
    decoder: Decoder, max_pixels: int
) -> None:
    budget = budget_of(8, max_pixels=max_pixels * MILLION)
    decoder.gate.set()
    sizes = [random.Random(max_pixels).choice([3, 12, 25, 80]) for _ in range(200)]
    await budget.decode([str(size).encode() for size in sizes], decoder)
    assert sorted(decoder.started) == sorted(sizes)
    assert decoder.most_pixels <= max(max_pixels, *sizes)
    budget.close()


async def test_what_nobody_waits_for_is_not_begun_and_what_has_begun_counts_to_its_end(
    decoder: Decoder,
) -> None:
    budget = budget_of(4, max_pixels=50 * MILLION)
    asking = [asyncio.create_task(budget.decode([b"25"], decoder)) for _ in range(30)]
    await until_started(decoder, 2)
    for one in asking:
        one.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    last = asyncio.create_task(budget.decode([b"25"], decoder))
    assert await budget.decode([b"1"], decoder) == [":1"]
    assert decoder.running == 2  # threads can't be interrupted: their memory is still held
    decoder.gate.set()
    assert await last == [":25"]
    assert decoder.started == [25] * 3
    assert decoder.most_pixels == 50
    budget.close()


async def test_an_exception_is_its_own_and_frees_its_place(decoder: Decoder) -> None:
    decoder.gate.set()
    budget = budget_of(1, max_pixels=99 * MILLION)
    for _ in range(10):
        with pytest.raises(ValueError, match="damaged"):
            await budget.decode([b"99"], decoder)
    assert await budget.decode([b"25"], decoder) == [":25"]
    budget.close()
