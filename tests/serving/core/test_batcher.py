from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence

import pytest

from serving.core.batcher import Batcher, BatchFailed
from serving.core.errors import Overloaded, ShuttingDown
from testing.waiting import HANG_S


async def submit(batcher: Batcher[int, int], items: Sequence[int]) -> list[int]:
    return (await batcher.submit(items)).results


class Recorder:
    """A `run` that squares numbers, remembers its batches and can be held at a gate."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Event()

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        self.started.set()
        assert self.gate.wait(timeout=HANG_S)
        if -1 in items:
            raise ValueError("a secret of the model")
        return [item * item for item in items]

    async def hold(self, batcher: Batcher[int, int], item: int = 0) -> asyncio.Task[list[int]]:
        """Start a batch of one item and keep it running until the gate is set."""
        self.gate.clear()
        self.started.clear()
        task = asyncio.create_task(submit(batcher, [item]))
        await asyncio.to_thread(self.started.wait, 30)
        return task


@pytest.fixture
def run() -> Recorder:
    return Recorder()


@pytest.fixture
async def batcher(run: Recorder) -> AsyncIterator[Batcher[int, int]]:
    batcher = Batcher(run, max_batch_size=4, max_queue=10)
    yield batcher
    run.gate.set()
    await batcher.close(grace_s=5)


async def test_an_item_alone_runs_at_once(run: Recorder, batcher: Batcher[int, int]) -> None:
    assert await submit(batcher, [3]) == [9]
    assert run.batches == [[3]]


async def test_items_of_one_turn_share_a_batch(run: Recorder, batcher: Batcher[int, int]) -> None:
    results = await asyncio.gather(*(submit(batcher, [i]) for i in range(4)))
    assert results == [[0], [1], [4], [9]]
    assert run.batches == [[0, 1, 2, 3]]


async def test_items_gather_while_a_batch_runs(run: Recorder, batcher: Batcher[int, int]) -> None:
    first = await run.hold(batcher)
    others = [asyncio.create_task(submit(batcher, [i])) for i in (1, 2, 3)]
    await asyncio.sleep(0)
    run.gate.set()
    assert [await task for task in [first, *others]] == [[0], [1], [4], [9]]
    assert run.batches == [[0], [1, 2, 3]]


async def test_many_items_are_split_and_put_together_in_order(
    run: Recorder, batcher: Batcher[int, int]
) -> None:
    assert await submit(batcher, range(10)) == [i * i for i in range(10)]
    assert run.batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


async def test_hundreds_of_submitters_get_their_own_results(run: Recorder) -> None:
    batcher = Batcher(run, max_batch_size=7, max_queue=10_000)
    requests = [[i * 3 + j for j in range(i % 5 + 1)] for i in range(500)]
    results = await asyncio.gather(*(submit(batcher, items) for items in requests))
    assert results == [[item * item for item in items] for items in requests]
    assert max(map(len, run.batches)) == 7
    await batcher.close(grace_s=5)


async def test_a_full_queue_refuses_at_once_and_keeps_what_it_accepted(
    run: Recorder, batcher: Batcher[int, int]
) -> None:
    running = await run.hold(batcher)
    accepted = asyncio.create_task(submit(batcher, range(8)))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match=r"8 images are waiting, the limit is 10"):
        await submit(batcher, [1, 2, 3])  # all or nothing: two would have had room
    assert len(run.batches) == 1  # refused without waiting for the running batch
    fits = asyncio.create_task(submit(batcher, [5, 6]))
    await asyncio.sleep(0)
    run.gate.set()
    assert await running == [0]
    assert await accepted == [i * i for i in range(8)]
    assert await fits == [25, 36]


async def test_given_up_items_are_dropped_before_they_run(
    run: Recorder, batcher: Batcher[int, int]
) -> None:
    running = await run.hold(batcher)
    gone = [asyncio.create_task(submit(batcher, [i] * 3)) for i in (1, 2, 3)]  # 9 of 10
    await asyncio.sleep(0)
    for task in gone:
        task.cancel()
    await asyncio.gather(*gone, return_exceptions=True)
    stays = asyncio.create_task(submit(batcher, [7] * 10))  # and their room is free again
    await asyncio.sleep(0)
    run.gate.set()
    assert await running == [0]
    assert await stays == [49] * 10
    assert all(item in (0, 7) for batch in run.batches for item in batch)


async def test_an_exception_fails_only_the_items_that_it_is_for(
    run: Recorder, batcher: Batcher[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    results = await asyncio.gather(
        submit(batcher, [1]), submit(batcher, [-1, 2]), submit(batcher, [3]),
        return_exceptions=True,
    )  # fmt: skip
    assert run.batches == [[1, -1, 2, 3], [1], [-1], [2], [3]]
    assert isinstance(results[1], BatchFailed)
    assert "secret" not in str(results[1])
    assert "a secret of the model" in caplog.text  # the log tells
    assert (results[0], results[2]) == ([1], [9])
    assert await submit(batcher, [6]) == [36]


async def test_a_run_that_loses_a_result_fails_rather_than_shifts_answers() -> None:
    batcher: Batcher[int, int] = Batcher(lambda items: [1], max_batch_size=4, max_queue=10)
    with pytest.raises(BatchFailed):
        await submit(batcher, [1, 2])
    await batcher.close(grace_s=5)


class TestBesideEachOther:
    """Two batches at once, for sessions that can: a GPU copies while it computes."""

    @pytest.fixture
    async def batcher(self, run: Recorder) -> AsyncIterator[Batcher[int, int]]:
        batcher = Batcher(
            run, max_batch_size=4, max_queue=20, max_delay_s=3600, max_concurrent_batches=2
        )
        yield batcher
        run.gate.set()
        await batcher.close(grace_s=5)

    async def test_a_full_batch_starts_beside_the_running_one(
        self, run: Recorder, batcher: Batcher[int, int]
    ) -> None:
        first = await run.hold(batcher)
        tasks = [asyncio.create_task(submit(batcher, [i])) for i in (1, 2, 3)]
        await asyncio.sleep(0.02)
        assert run.batches == [[0]]  # neither full nor old
        run.started.clear()
        tasks.append(asyncio.create_task(submit(batcher, [4])))
        await asyncio.to_thread(run.started.wait, 30)
        assert run.batches == [[0], [1, 2, 3, 4]]
        tasks += [asyncio.create_task(submit(batcher, [i] * 4)) for i in (5, 6)]
        await asyncio.sleep(0.02)
        assert len(run.batches) == 2  # not a third
        run.gate.set()
        assert await first == [0]
        assert [await task for task in tasks] == [
            [1], [4], [9], [16], [25] * 4, [36] * 4,
        ]  # fmt: skip

    async def test_so_does_one_whose_oldest_has_waited_long_enough(self, run: Recorder) -> None:
        batcher = Batcher(
            run, max_batch_size=4, max_queue=20, max_delay_s=0.05, max_concurrent_batches=2
        )
        first = await run.hold(batcher)
        run.started.clear()
        second = asyncio.create_task(submit(batcher, [1]))
        await asyncio.sleep(0)
        third = asyncio.create_task(submit(batcher, [2]))
        assert await asyncio.to_thread(run.started.wait, 30)
        assert run.batches == [[0], [1, 2]]
        run.gate.set()
        assert [await task for task in (first, second, third)] == [[0], [1], [4]]
        await batcher.close(grace_s=5)

    async def test_what_waits_starts_when_nothing_runs_any_more(
        self, run: Recorder, batcher: Batcher[int, int]
    ) -> None:
        first = await run.hold(batcher)
        second = asyncio.create_task(submit(batcher, [1]))
        await asyncio.sleep(0)
        run.gate.set()  # long before the delay of an hour
        assert [await first, await second] == [[0], [1]]

    async def test_a_drain_runs_everything(self, run: Recorder, batcher: Batcher[int, int]) -> None:
        first = await run.hold(batcher)
        rest = asyncio.create_task(submit(batcher, range(14)))
        await asyncio.sleep(0)
        closing = asyncio.create_task(batcher.close(grace_s=30))
        await asyncio.sleep(0)
        run.gate.set()
        await closing
        assert await first == [0]
        assert await rest == [i * i for i in range(14)]


async def test_sizes_waits_and_run_times_are_told(run: Recorder) -> None:
    told: list[tuple[int, float]] = []
    depths: list[int] = []
    batcher = Batcher(
        run, max_batch_size=4, max_queue=10,
        on_batch=lambda *values: told.append(values), on_queue=depths.append,
    )  # fmt: skip
    first = await run.hold(batcher)
    rest = asyncio.create_task(batcher.submit([1, 2]))
    await asyncio.sleep(0.05)
    assert batcher.queue_depth == 2
    run.gate.set()
    await first
    ran = await rest
    assert [size for size, _ in told] == [1, 2]
    assert told[0][1] >= 0.05  # it ran while it was held
    assert ran.queue_s >= 0.05  # while the others waited
    assert ran.results == [1, 4]
    assert 0 <= ran.inference_s < ran.queue_s + 30
    assert depths == [1, 0, 2, 0]
    assert batcher.queue_depth == 0
    await batcher.close(grace_s=5)


async def test_how_long_the_oldest_batch_has_been_running(run: Recorder) -> None:
    batcher: Batcher[int, int] = Batcher(
        run, max_batch_size=1, max_queue=10, max_concurrent_batches=2
    )
    assert batcher.running_s == 0.0
    first = await run.hold(batcher)
    await asyncio.sleep(0.05)
    second = await run.hold(batcher)
    assert batcher.running_s >= 0.05
    first.cancel()  # its submitter has given up; the run goes on
    await asyncio.sleep(0.05)
    assert batcher.running_s >= 0.1
    run.gate.set()
    await second
    while batcher.running_s:  # the first one's end may come a little later
        await asyncio.sleep(0.01)
    await batcher.close(grace_s=5)


class TestClose:
    async def test_finishes_what_was_accepted_and_refuses_the_rest(
        self, run: Recorder, batcher: Batcher[int, int]
    ) -> None:
        running = await run.hold(batcher)
        waiting = asyncio.create_task(submit(batcher, range(6)))
        await asyncio.sleep(0)
        closing = asyncio.create_task(batcher.close(grace_s=30))
        await asyncio.sleep(0)
        with pytest.raises(ShuttingDown):
            await submit(batcher, [1])
        run.gate.set()
        await closing
        assert await running == [0]
        assert await waiting == [i * i for i in range(6)]

    async def test_fails_what_is_not_done_in_time(
        self, run: Recorder, batcher: Batcher[int, int]
    ) -> None:
        running = await run.hold(batcher)
        waiting = asyncio.create_task(submit(batcher, [1]))
        await asyncio.sleep(0)
        await batcher.close(grace_s=0.01)
        for task in (running, waiting):
            with pytest.raises(ShuttingDown):
                await task


async def test_idle_batcher_has_no_task(run: Recorder, batcher: Batcher[int, int]) -> None:
    await submit(batcher, [1])
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
