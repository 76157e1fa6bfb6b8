"""What the store says is done: by a real store, and stubs for the models."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from models.errors import StoreError
from models.monitoring.canary_tests import CanaryLimits, CanaryTally
from models.monitoring.shadow_rule import ShadowRule
from models.registry import canaries, shadowing, store
from models.registry.tallies import ShadowTally, read_tallies, write_tally
from serving.core.dataplane import DataPlane
from serving.core.pool import DesiredVersion, ModelPool
from serving.core.requests import InferRequest
from serving.core.served_model import ServedModel
from serving.core.supervisor import Supervisor
from serving.engine.right_of_way import Traffic
from serving.observability.metrics import Metrics
from serving.rollout import watch as watch_module
from serving.rollout.canary import share_of
from serving.rollout.watch import RolloutWatch, ShadowOptions
from testing.bundles import write_tiny_bundle
from testing.images import coloured_pixels
from testing.waiting import HANG_S
from tests.serving.conftest import StubModel, served, telemetry_of
from tests.serving.rollout.conftest import Command

PIXELS = coloured_pixels(0, "red")[None]


class Place:
    """A store with two versions, of which the first is in production, and a worker that serves."""

    def __init__(self, classifier: DataPlane, command: Command, versions: list[str]) -> None:
        self.old, self.new = versions
        self.classifier = classifier
        self.failures: list[str] = []
        self.supervisor = Supervisor(self.failures.append)
        self.watch = RolloutWatch(
            classifier,
            Traffic(),
            ShadowOptions(worker_index=1, timeout_s=60, keeps_pictures=False),
            Metrics(CollectorRegistry()),
            self.supervisor,
            lambda _: command("ready()\nwhile True: hear(); answer()"),
        )

    async def ask(self, times: int = 1) -> set[str]:
        request = InferRequest(pixels=PIXELS)
        return {(await self.classifier.infer(request)).model.version for _ in range(times)}

    async def ask_as(self, users: list[str]) -> set[str]:
        """What answers clients who say who they are."""
        found = set()
        for user in users:
            with telemetry_of().observe("http", "infer", {"x-user": user}, "192.0.2.1"):
                found |= await self.ask()
        return found


@pytest.fixture
async def place(
    model: StubModel,
    classifier: DataPlane,
    store_home: Path,
    tmp_path: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Place]:
    monkeypatch.setattr(watch_module, "_WRITE_EVERY_S", 0.0)
    versions = []
    for day in (1, 2):
        bundle = write_tiny_bundle(tmp_path / str(day), f"2026-01-0{day}T00:00:00+00:00")
        versions.append(store.register(bundle).rpartition(":")[2])
    store.promote(versions[0])

    def load(version: str) -> ServedModel:
        if model.error is not None:
            raise StoreError("it is damaged")
        return served(version, model)

    pool = ModelPool(load, grace_s=5)
    await pool.follow(DesiredVersion(versions[0]))
    classifier.models = pool
    place = Place(classifier, command, versions)
    yield place
    await place.watch.close()
    await pool.close()


async def test_a_shadow_comes_and_goes(place: Place) -> None:
    await place.watch.follow()
    assert place.classifier.watcher is None  # the way of a request is as it was
    shadow = shadowing.start_shadow(place.new, ShadowRule())
    deadline = time.monotonic() + HANG_S
    while not (status := shadowing.shadow_status()) or not status.seen.images:
        assert time.monotonic() < deadline
        await place.ask()
        await place.watch.follow()
    shadowing.stop_shadow()
    await place.watch.follow()
    assert place.classifier.watcher is None
    (tally,) = read_tallies(shadowing.directory(), shadow.id, ShadowTally)
    assert tally.state == "ended"


async def test_a_promotion_ends_a_shadow(place: Place) -> None:
    shadowing.start_shadow(place.new, ShadowRule())
    await place.watch.follow()
    assert place.classifier.watcher is not None
    store.promote(place.new)
    await place.watch.follow()
    assert place.classifier.watcher is None


async def test_what_production_has_left_does_not_go_on_when_it_returns(place: Place) -> None:
    """Production became another version, whoever did that, and is rolled back."""
    canaries.start_canary(place.new, [99.9999], wait_hours=1, min_requests=0)
    await place.watch.follow()
    store.promote(place.new)
    await place.classifier.models.follow(DesiredVersion(place.new))
    await place.watch.follow()
    store.rollback()
    await place.classifier.models.follow(DesiredVersion(place.old))
    await place.watch.follow()
    assert canaries.current_canary() is None
    assert place.classifier.router is None


async def test_a_canary_goes_step_by_step_into_production(place: Place) -> None:
    steps = [50.0, 51.0, 100.0]
    canary = canaries.start_canary(place.new, steps, wait_hours=0, min_requests=3, header="x-user")
    users = {  # three of each side
        side: [user for user in map(str, range(60)) if (share_of(user, canary.id) < 50) == side][:3]
        for side in (True, False)
    }
    await place.watch.follow()
    assert await place.ask_as(users[True]) == {place.new}
    for _ in range(2):
        await place.watch.follow()
    assert len(shadowing.rollouts().events()) == 1  # production answered nobody: no evidence
    assert await place.ask_as(users[False]) == {place.old}
    for _ in range(4):
        await place.watch.follow()
    assert not place.failures
    assert store.production_version() == place.new
    assert store.promotions()[0].why.startswith("canary: 3 requests without harm")
    events = [event.what for event in shadowing.rollouts().events()]
    assert events == ["promoted", "51.0%", "begun"]
    model = place.classifier.models.get("vgg19", place.new)
    await place.classifier.models.follow(DesiredVersion(place.new))
    await place.watch.follow()
    assert place.classifier.router is None
    assert place.classifier.models.current is model  # not loaded a second time
    assert await place.ask() == {place.new}
    assert place.classifier.models.versions == [place.new]


async def test_it_waits_for_its_hours(place: Place) -> None:
    canaries.start_canary(place.new, [50, 100], wait_hours=1, min_requests=0)
    for _ in range(3):
        await place.watch.follow()
    canary = canaries.current_canary()
    assert canary is not None
    assert canary.step == 0


async def test_harm_takes_it_back_for_all_and_is_recorded(place: Place) -> None:
    limits = CanaryLimits(alpha=0.5)
    canary = canaries.start_canary(
        place.new, [99.9999], wait_hours=1, min_requests=0, limits=limits
    )
    await place.watch.follow()
    other = CanaryTally.of("other", limits)
    other.tests["failed"].log_e = limits.threshold
    write_tally(shadowing.directory(), canary.id, "other", other.model_dump_json())
    for _ in range(2):
        await place.watch.follow()
    assert await place.ask(3) == {place.old}
    assert canaries.current_canary() is None
    event = shadowing.rollouts().events()[0]
    assert (event.what, event.version) == ("returned", place.new)
    assert event.why.startswith("failed: 0 of 0 against 0 of 0 in production, e-value")


async def test_one_that_cannot_be_loaded_is_taken_back(place: Place, model: StubModel) -> None:
    canaries.start_canary(place.new, [50], wait_hours=1, min_requests=0)
    model.error = RuntimeError("loads fail, too")
    await place.watch.follow()
    model.error = None
    assert shadowing.rollouts().events()[0].why == "it can't be loaded: it is damaged"
    assert await place.ask() == {place.old}


async def test_one_that_cannot_stand_in_is_taken_back_and_let_go(
    place: Place, model: StubModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    canaries.start_canary(place.new, [99.9999], wait_hours=1, min_requests=0)
    monkeypatch.setattr(watch_module, "cannot_stand_in", lambda canary, production: "too small")
    for _ in range(2):
        await place.watch.follow()
    assert shadowing.rollouts().events()[0].why == "too small"
    assert place.classifier.models.versions == [place.old]
    assert await place.ask() == {place.old}


async def test_abort(place: Place) -> None:
    canaries.start_canary(place.new, [99.9999], wait_hours=1, min_requests=0)
    await place.watch.follow()
    assert await place.ask() == {place.new}
    assert canaries.abort_canary() is not None
    await place.watch.follow()
    assert await place.ask() == {place.old}
    assert place.classifier.models.versions == [place.old]


async def test_a_service_that_serves_another_version_does_neither(place: Place) -> None:
    """One with VGG19_MODEL=VERSION, or one that hasn't taken up a promotion yet."""
    await place.classifier.models.follow(DesiredVersion("another"))
    for begin in (
        lambda: shadowing.start_shadow(place.new, ShadowRule()),
        lambda: canaries.start_canary(place.new, [50], wait_hours=1, min_requests=0),
    ):
        begin()
        await place.watch.follow()
        assert place.classifier.watcher is None
        assert place.classifier.router is None
        shadowing.stop_shadow()
    await place.classifier.models.follow(DesiredVersion(place.old))
    await place.watch.follow()
    assert place.classifier.router is not None


async def test_a_store_that_takes_no_counts_is_told_and_followed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    canaries.start_canary(place.new, [99.9999], wait_hours=1, min_requests=0)
    await place.watch.follow()
    with monkeypatch.context() as patch:
        patch.setattr(watch_module, "write_tally", read_only)
        for _ in range(3):
            await place.watch.follow()
        assert place.supervisor.failing == ["the counts of a rollout"]
        assert await place.ask() == {place.new}
        canaries.abort_canary()
        await place.watch.follow()
    assert await place.ask() == {place.old}
