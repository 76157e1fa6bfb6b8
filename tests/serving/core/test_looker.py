from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from threading import Event

import pytest

from serving.core.looker import Looker
from testing.waiting import HANG_S


class Store:
    """What is looked at; hangs until it is let go."""

    def __init__(self) -> None:
        self.looks = 0
        self.free = Event()

    def look(self) -> int:
        self.looks += 1
        assert self.free.wait(HANG_S)
        return self.looks


async def test_a_look_that_hangs_is_told_and_not_begun_a_second_time() -> None:
    store = Store()
    looker = Looker("test", store.look, 0.02, lambda: TimeoutError("it doesn't answer"))
    for _ in range(3):
        with pytest.raises(TimeoutError, match="it doesn't answer"):
            await looker.look()
    assert store.looks == 1
    store.free.set()
    assert await answered(looker) == 1  # of the look that hung
    assert await answered(looker) == 2
    looker.close()


async def answered(looker: Looker[int]) -> int:
    """What it says in the end: beside other work, a look may take longer than its limit."""
    while True:
        with suppress(TimeoutError):
            return await looker.look()


async def test_what_a_look_raises_is_raised_once() -> None:
    answers: Iterator[OSError | int] = iter([OSError("away"), 7])

    def look() -> int:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    looker = Looker("test", look, 20, TimeoutError)
    with pytest.raises(OSError, match="away"):
        await looker.look()
    assert await looker.look() == 7
    looker.close()
