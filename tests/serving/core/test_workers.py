from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest

from serving.core.workers import Workers
from testing.waiting import HANG_S, wait_until


@pytest.fixture
def workers() -> Iterator[Workers]:
    made = Workers(2, "test")
    yield made
    made.close()


async def test_results_come_from_threads_to_their_own_callers(workers: Workers) -> None:
    async def call(number: int) -> tuple[int, str]:
        return await workers.run(lambda: (number, threading.current_thread().name))

    results = await asyncio.gather(*(call(number) for number in range(5_000)))
    assert [number for number, _ in results] == list(range(5_000))
    assert {name for _, name in results} <= {"test_0", "test_1"}


async def test_an_exception_is_the_callers_and_the_thread_goes_on(workers: Workers) -> None:
    for error in (ValueError, SystemExit, StopIteration):

        def fail(kind: type[BaseException] = error) -> None:
            raise kind("wrong")

        future = workers.run(fail)
        await asyncio.wait([future])
        expected = RuntimeError if error is StopIteration else error
        assert isinstance(future.exception(), expected)
    assert await asyncio.gather(*(workers.run(len, "ab") for _ in range(4))) == [2] * 4


async def test_what_is_cancelled_before_its_turn_is_not_called(workers: Workers) -> None:
    gate = threading.Event()
    called: list[int] = []
    busy = [workers.run(gate.wait) for _ in range(2)]
    waiting = workers.run(called.append, 1)
    waiting.cancel()
    gate.set()
    await asyncio.gather(*busy)
    assert await workers.run(len, "abc") == 3
    assert called == []


async def test_what_is_cancelled_meanwhile_has_no_result(workers: Workers) -> None:
    gate = threading.Event()
    future = workers.run(gate.wait)
    await asyncio.sleep(0.01)
    future.cancel()
    gate.set()
    assert await workers.run(len, "abc") == 3
    assert future.cancelled()


async def test_close_lets_them_end_after_their_work() -> None:
    workers = Workers(2, "ending")
    results = [workers.run(time.sleep, 0.01) for _ in range(4)]
    workers.close()
    await asyncio.gather(*results)
    wait_until(lambda: not any(one.name.startswith("ending") for one in threading.enumerate()))


def test_a_result_after_the_loop_has_closed_harms_nobody() -> None:
    workers = Workers(1, "late")
    gate = threading.Event()

    async def leave() -> None:
        workers.run(gate.wait)
        await asyncio.sleep(0)

    asyncio.run(leave())
    (thread,) = (thread for thread in threading.enumerate() if thread.name == "late_0")
    gate.set()
    workers.close()
    thread.join(timeout=HANG_S)  # an exception in it would be a warning, which fails tests
    assert not thread.is_alive()
