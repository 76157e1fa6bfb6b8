from __future__ import annotations

import asyncio
import logging
import threading

import pytest

from models.errors import StoreError
from serving.core.supervisor import Supervisor
from testing.waiting import HANG_S

ERRORS: list[BaseException] = [
    StoreError("no model"),
    OSError("stale file handle"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    ValueError("not enough values to unpack"),
    KeyError("x"),
    RuntimeError("x"),
    AssertionError(),
    MemoryError(),
    RecursionError(),
    StopAsyncIteration(),
    EOFError(),
    TimeoutError(),
    asyncio.CancelledError(),  # of what the step waited for; the task itself isn't cancelled
    ExceptionGroup("several", [ValueError("x")]),
]


def named(errors: list[BaseException]) -> list[str]:
    return [type(error).__name__ for error in errors]


@pytest.fixture
def failures() -> list[str]:
    return []


@pytest.fixture
def supervisor(failures: list[str]) -> Supervisor:
    return Supervisor(failures.append, tolerated=3, max_pause_s=0)


def told(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("error", ERRORS, ids=named(ERRORS))
async def test_whatever_a_step_raises_it_goes_on(
    supervisor: Supervisor,
    failures: list[str],
    caplog: pytest.LogCaptureFixture,
    error: BaseException,
) -> None:
    steps = 0
    well = asyncio.Event()

    async def step() -> None:
        nonlocal steps
        steps += 1
        if steps <= 5:
            assert supervisor.failing == (["work"] if steps > 3 else [])
            raise error
        well.set()

    task = asyncio.create_task(supervisor.repeat("work", step, 0))
    async with asyncio.timeout(HANG_S):
        await well.wait()
        while supervisor.failing:
            await asyncio.sleep(0)
    assert failures == ["work"] * 5
    assert len(told(caplog)) == 1  # with its cause
    record = told(caplog)[0]
    assert str(error) in record.getMessage() or record.exc_info is not None
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_follows_a_step_is_done_after_failures_and_may_fail(
    supervisor: Supervisor, failures: list[str]
) -> None:
    after = 0

    async def step() -> None:
        raise OSError("x")

    async def after_step() -> None:
        nonlocal after
        after += 1
        if after == 2:
            raise RuntimeError("of its own")

    task = asyncio.create_task(supervisor.repeat("work", step, 0, after_step))
    async with asyncio.timeout(HANG_S):
        while after < 4:
            await asyncio.sleep(0)
    task.cancel()
    assert len(failures) >= 3


def test_the_same_error_is_told_once_and_another_one_again(
    supervisor: Supervisor, caplog: pytest.LogCaptureFixture
) -> None:
    for number in (1, 1, 2, 2, 1):
        supervisor.failed("work", OSError(f"error {number}"))
    assert [record.getMessage() for record in told(caplog)] == [
        "work: error 1",
        "work: error 2",
        "work: error 1",
    ]


def test_pauses_grow_to_a_limit_and_begin_anew() -> None:
    supervisor = Supervisor(max_pause_s=60)
    pauses = [supervisor.failed("work", OSError()) for _ in range(100)]
    assert pauses[:7] == [0, 1, 3, 7, 15, 31, 60]
    assert set(pauses[6:]) == {60}
    supervisor.succeeded("work")
    assert supervisor.failed("work", OSError()) == 0


def test_each_work_for_itself(supervisor: Supervisor) -> None:
    for _ in range(3):
        supervisor.failed("one", OSError())
    supervisor.failed("two", OSError())
    assert supervisor.failing == ["one"]
    supervisor.succeeded("two")
    supervisor.succeeded("never failed")
    assert supervisor.failing == ["one"]
    supervisor.succeeded("one")
    assert supervisor.failing == []


def test_from_many_threads(supervisor: Supervisor, failures: list[str]) -> None:
    def fail() -> None:
        for _ in range(200):
            supervisor.failed("work", OSError())

    threads = [threading.Thread(target=fail) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(failures) == 1600
    assert supervisor.failing == ["work"]
