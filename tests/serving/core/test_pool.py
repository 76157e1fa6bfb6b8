from __future__ import annotations

import asyncio
import gc
import threading
import weakref

import pytest

from models.errors import StoreError
from serving.core.errors import Conflict, ShuttingDown, UnknownModel
from serving.core.pool import DesiredVersion, ModelPool, ServedModel
from testing.images import coloured_pixels
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

    def __call__(self, version: str) -> ServedModel:
        self.loads.append(version)
        assert self.gate.wait(timeout=30)
        if version in self.errors:
            raise self.errors[version]
        return served(version, self.model)


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
        async with asyncio.timeout(10):
            while old() is not None:
                await asyncio.sleep(0.01)
    finally:
        gc.enable()
    await pool.close()


async def test_who_uses_it_too_long_is_not_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    model = served("v1", StubModel())
    model.acquire()
    await model.close(grace_s=0.01)
    with pytest.raises(ShuttingDown):
        await model.batcher.submit(PIXELS)
    assert "vgg19:v1 is closed while 1 use it" in caplog.text


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
