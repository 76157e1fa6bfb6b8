from __future__ import annotations

import asyncio
import gc
import threading
import weakref

import pytest

from models.errors import StoreError
from serving.core.errors import Conflict, ShuttingDown, UnknownModel
from serving.core.pool import DesiredVersion, ModelPool
from serving.core.served_model import ServedModel
from testing.images import coloured_pixels
from testing.waiting import HANG_S
from tests.serving.conftest import StubModel, served

PIXELS = [coloured_pixels(0)]


class Loader:
    """Loads any version but those in `errors`, and can be held at a gate."""

    def __init__(self) -> None:
        self.model = StubModel()
        self.loads: list[str] = []
        self.errors: dict[str, Exception] = {}
        self.gate = threading.Event()
        self.gate.set()
        self.running = 0
        self.most_running = 0

    def __call__(self, version: str) -> ServedModel:
        self.loads.append(version)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            assert self.gate.wait(timeout=HANG_S)
            if version in self.errors:
                raise self.errors[version]
            return served(version, self.model)
        finally:
            self.running -= 1


@pytest.fixture
def loader() -> Loader:
    return Loader()


@pytest.fixture
def told() -> list[str | None]:
    return []


@pytest.fixture
async def pool(loader: Loader, told: list[str | None]) -> ModelPool:
    pool = ModelPool(
        loader, grace_s=5, on_reload=lambda model: told.append(model.version if model else None)
    )
    await pool.follow(DesiredVersion("v1", 1))
    return pool


async def test_a_promoted_version_takes_over_and_the_old_one_is_dropped(
    pool: ModelPool, loader: Loader, told: list[str | None]
) -> None:
    old = pool.current
    loader.gate.clear()
    change = asyncio.create_task(pool.follow(DesiredVersion("v2", 2)))
    await asyncio.sleep(0.02)
    assert pool.current is old  # while the new one loads
    assert len((await old.batcher.submit(PIXELS)).results) == 1
    loader.gate.set()
    await change
    assert pool.current.version == "v2"
    assert pool.versions == ["v2"]
    assert told == ["v1", "v2"]
    await pool.close()
    with pytest.raises(ShuttingDown):
        await old.batcher.submit(PIXELS)


async def test_what_is_current_is_not_loaded_again(pool: ModelPool, loader: Loader) -> None:
    await pool.follow(DesiredVersion("v1", 1))
    await pool.follow(DesiredVersion("v1", 2))  # promoted again
    assert loader.loads == ["v1"]
    assert pool.current.version == "v1"
    await pool.close()


async def test_a_request_in_use_is_finished_by_the_old_model(pool: ModelPool) -> None:
    """Decoded before the change, submitted after it."""
    old = pool.current
    old.acquire()
    await pool.follow(DesiredVersion("v2", 2))
    await asyncio.sleep(0.02)
    assert len((await old.batcher.submit(PIXELS)).results) == 1
    old.release()
    await pool.close()
    with pytest.raises(ShuttingDown):
        await old.batcher.submit(PIXELS)


async def test_a_dropped_model_is_let_go_even_by_garbage(pool: ModelPool) -> None:
    """As left by requests whose clients have gone: exceptions in cycles with their frames."""
    old = weakref.ref(pool.current)
    garbage: list[object] = [pool.current]
    garbage.append(garbage)
    del garbage
    gc.disable()  # an accidental collection would hide that none is made
    try:
        await pool.follow(DesiredVersion("v2", 2))
        async with asyncio.timeout(HANG_S):
            while old() is not None:
                await asyncio.sleep(0.01)
    finally:
        gc.enable()
    await pool.close()


@pytest.mark.parametrize(
    ("error", "reason"),
    [(StoreError("it is damaged"), "it is damaged"), (RuntimeError("secret"), "an internal error")],
)
async def test_a_bad_version_leaves_the_old_one_and_is_tried_once(
    pool: ModelPool, loader: Loader, told: list[str | None], error: Exception, reason: str
) -> None:
    loader.errors["v2"] = error
    await pool.follow(DesiredVersion("v2", 2))
    assert pool.current.version == "v1"
    assert pool.failed is not None
    assert pool.failed.desired == DesiredVersion("v2", 2)
    assert pool.failed.reason.startswith(reason)
    assert "secret" not in pool.failed.reason
    assert told[1:] == [None]
    await pool.follow(DesiredVersion("v2", 2))
    assert loader.loads == ["v1", "v2"]

    loader.errors.clear()
    await pool.follow(DesiredVersion("v2", 3))  # promoted again, repaired
    assert [pool.current.version, pool.failed] == ["v2", None]
    await pool.close()


async def test_back_to_the_old_one_after_a_bad_one(pool: ModelPool, loader: Loader) -> None:
    loader.errors["v2"] = StoreError("no")
    await pool.follow(DesiredVersion("v2", 2))
    await pool.follow(DesiredVersion("v1", 3))
    assert pool.failed is None
    assert loader.loads == ["v1", "v2"]
    await pool.close()


async def test_the_first_load_raises(loader: Loader) -> None:
    loader.errors = {"v1": StoreError("no such model"), "v2": RuntimeError("x")}
    pool = ModelPool(loader, grace_s=1)
    with pytest.raises(StoreError, match="no such model"):
        await pool.follow(DesiredVersion("v1"))
    with pytest.raises(RuntimeError):
        await pool.follow(DesiredVersion("v2"))
    assert pool.failed is None


class TestBeside:
    async def test_what_is_released_stays_only_if_it_became_the_current_one(
        self, pool: ModelPool
    ) -> None:
        for version in ("v2", "v3"):
            await pool.hold(version)
        await pool.follow(DesiredVersion("v3"))
        for version in ("v2", "v3", "gone already"):
            await pool.release(version)
        assert pool.versions == ["v3"]
        await pool.follow(DesiredVersion("v1"))
        assert pool.versions == ["v1"]  # nobody asks for v3 any more

    async def test_what_is_held_stays_until_it_is_released(self, pool: ModelPool) -> None:
        await pool.hold("v2")
        with pytest.raises(Conflict, match="v2 is a canary, .* 'vgg19 canary --abort' ends it"):
            await pool.unload("v2")
        await pool.load("v2")  # a client's, too: that one's stays
        await pool.release("v2")
        assert pool.versions == ["v1", "v2"]
        await pool.unload("v2")
        await pool.hold("v2")
        await pool.release("v2")
        assert pool.versions == ["v1"]

    async def test_load_get_and_unload(self, pool: ModelPool, loader: Loader) -> None:
        with pytest.raises(UnknownModel):
            pool.get("vgg19", "v2")
        loaded = await pool.load("v2")
        assert pool.get("vgg19", "v2") is loaded
        assert pool.get("vgg19") is pool.get("vgg19", "v1") is pool.current
        assert pool.versions == ["v1", "v2"]
        with pytest.raises(UnknownModel, match="model 'resnet' version '' is not served here"):
            pool.get("resnet")
        await pool.load("v2")
        assert loader.loads == ["v1", "v2"]
        await pool.unload("v2")
        assert pool.versions == ["v1"]
        with pytest.raises(Conflict, match="v1 is the current one"):
            await pool.unload("v1")
        with pytest.raises(UnknownModel):
            await pool.unload("v2")
        await pool.close()

    async def test_what_was_asked_for_stays_when_it_is_replaced(self, pool: ModelPool) -> None:
        await pool.load("v1")
        await pool.follow(DesiredVersion("v2", 2))
        assert pool.versions == ["v2", "v1"]
        await pool.close()

    async def test_a_version_that_is_loaded_is_promoted_without_loading(
        self, pool: ModelPool, loader: Loader
    ) -> None:
        await pool.load("v2")
        await pool.follow(DesiredVersion("v2", 2))
        assert loader.loads == ["v1", "v2"]
        assert pool.versions == ["v2"]
        await pool.close()

    async def test_an_error_of_a_load_is_the_callers(self, pool: ModelPool, loader: Loader) -> None:
        loader.errors["v2"] = StoreError("no")
        with pytest.raises(StoreError):
            await pool.load("v2")
        assert pool.failed is None
        await pool.close()


class TestGivenUp:
    """Clients with a short deadline, and those who go away. Five loads ran side by side."""

    @pytest.mark.slow
    @pytest.mark.parametrize("count", [1, 5])
    @pytest.mark.parametrize("different", [True, False])
    async def test_never_two_loads_at_once(
        self, pool: ModelPool, loader: Loader, count: int, different: bool
    ) -> None:
        loader.gate.clear()
        versions = [f"v{number if different else 0}0" for number in range(1, count + 1)]
        for version in versions:
            asking = asyncio.create_task(pool.load(version))
            await asyncio.sleep(0)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
        follow = asyncio.create_task(pool.follow(DesiredVersion("v2", 2)))
        while len(loader.loads) < 2:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)  # time for a second one to begin, which it mustn't
        assert loader.running == 1
        loader.gate.set()
        await follow
        assert loader.most_running == 1
        assert pool.current.version == "v2"
        for version in versions:  # and what was given up is there for the next
            assert pool.get("vgg19", version).version == version
        assert len(loader.loads) == 2 + len(set(versions))
        await pool.close()

    async def test_a_deadline_again_and_again_comes_to_its_model(
        self, pool: ModelPool, loader: Loader
    ) -> None:
        loader.gate.clear()
        for _ in range(20):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.001):
                    await pool.load("v2")
        loader.gate.set()
        await pool.load("v2")
        assert loader.loads == ["v1", "v2"]
        await pool.close()

    async def test_a_promotion_that_is_given_up_takes_place(
        self, pool: ModelPool, loader: Loader
    ) -> None:
        loader.gate.clear()
        asking = asyncio.create_task(pool.follow(DesiredVersion("v2", 2)))
        await asyncio.sleep(0.01)
        asking.cancel()
        loader.gate.set()
        async with asyncio.timeout(HANG_S):
            while pool.current.version != "v2":
                await asyncio.sleep(0.01)
        await pool.close()

    async def test_one_that_fails_meanwhile_is_told(
        self, pool: ModelPool, loader: Loader, caplog: pytest.LogCaptureFixture
    ) -> None:
        loader.errors["v2"] = StoreError("it is damaged")
        loader.gate.clear()
        asking = asyncio.create_task(pool.load("v2"))
        await asyncio.sleep(0.01)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        loader.gate.set()
        await pool.load("v3")
        assert "a load whose client had gone failed: it is damaged" in caplog.text
        await pool.close()

    async def test_a_load_that_hangs_does_not_hold_up_the_end(
        self, pool: ModelPool, loader: Loader
    ) -> None:
        loader.gate.clear()
        asking = [asyncio.create_task(pool.load(f"v{number}")) for number in range(2, 5)]
        await asyncio.sleep(0.01)
        async with asyncio.timeout(HANG_S):
            await pool.close()
        for one in asking:
            with pytest.raises(ShuttingDown):
                await one
        loader.gate.set()


class TestTriedAgain:
    @pytest.mark.slow
    @pytest.mark.parametrize("error", [OSError("stale file handle"), RuntimeError(), MemoryError()])
    async def test_after_an_error_that_is_no_users(self, loader: Loader, error: Exception) -> None:
        pool = ModelPool(loader, grace_s=1, retry_s=0)
        await pool.follow(DesiredVersion("v1", 1))
        loader.errors["v2"] = error
        for _ in range(3):
            await pool.follow(DesiredVersion("v2", 2))
        assert loader.loads == ["v1", "v2", "v2", "v2"]
        loader.errors.clear()
        await pool.follow(DesiredVersion("v2", 2))
        assert (pool.current.version, pool.failed) == ("v2", None)
        await pool.close()

    async def test_not_before_its_time_and_ever_later(self, loader: Loader) -> None:
        pool = ModelPool(loader, grace_s=1, retry_s=1000)
        await pool.follow(DesiredVersion("v1", 1))
        loader.errors["v2"] = OSError("stale file handle")
        for _ in range(3):
            await pool.follow(DesiredVersion("v2", 2))
        assert loader.loads == ["v1", "v2"]
        await pool.close()
