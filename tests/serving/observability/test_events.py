from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from models.events import Kind
from models.events.config import EventsError, from_environment, new_key
from models.events.outbox import Outbox
from serving.core.pool import DesiredVersion, FailedLoad
from serving.observability.events import Events, HealthEvents
from testing.waiting import HANG_S
from tests.models.events.receiver import HANG, Receiver, receiver

BROKEN = FailedLoad(DesiredVersion("2", (7, 7)), "its files are damaged")


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    (tmp_path / "events.key").write_text(new_key())
    monkeypatch.setattr("models.events.sender._LOOK_S", 0.02)
    with receiver() as running:
        monkeypatch.setenv("VGG19_EVENTS_URL", running.url)
        monkeypatch.setenv("VGG19_EVENTS_KEY_FILE", str(tmp_path / "events.key"))
        monkeypatch.setenv("VGG19_EVENTS_QUEUE", str(tmp_path / "queue"))
        yield running


async def until(condition: Any) -> None:
    async with asyncio.timeout(HANG_S):
        while not condition():
            await asyncio.sleep(0.01)


async def test_what_a_worker_tells_arrives(there: Receiver) -> None:
    events = Events(from_environment(), lambda work: None)
    for number in range(5):
        events.emit("drift.detected", "vgg19:1", {"number": number})
    await until(lambda: len(there.events) == 5)
    assert there.numbers == list(range(5))
    events.close()


async def test_a_receiver_that_hangs_holds_nothing_up(there: Receiver, tmp_path: Path) -> None:
    there.answers[:] = [HANG]
    events = Events(from_environment(), lambda work: None)
    events.emit("events.test", "x", {})
    await until(lambda: there.requests)
    for _ in range(100):
        events.emit("events.test", "x", {})
    await until(lambda: len(Outbox(tmp_path / "queue").waiting()) == 101)
    events.close()


async def test_failures_are_counted_under_one_name(there: Receiver) -> None:
    failed: list[str] = []
    there.answers[:] = ["500", "204"]
    events = Events(from_environment(), failed.append)
    events.emit("events.test", "x", {})
    await until(lambda: there.events)
    assert failed == ["events"]
    events.close()


async def test_where_no_events_are_wanted_nothing_is_done(tmp_path: Path) -> None:
    events = Events(None, lambda work: None)
    events.emit("events.test", "x", {})
    events.announce()
    events.close()


async def test_a_key_that_is_missing_is_told_at_the_start(there: Receiver, tmp_path: Path) -> None:
    (tmp_path / "events.key").unlink()
    with pytest.raises(EventsError, match="can't be read"):
        Events(from_environment(), lambda work: None)


class Noted(Events):
    def __init__(self) -> None:
        super().__init__(None, lambda work: None)
        self.told: list[tuple[Kind, list[str], str | None]] = []

    def emit(
        self, kind: Kind, subject: str, data: dict[str, Any], identifier: str | None = None
    ) -> None:
        self.told.append((kind, data.get("problems", []), identifier))


def test_what_begins_to_fail_and_is_well_again() -> None:
    events = Noted()
    health = HealthEvents(events, 1)
    watch = "the watch over promotions"
    looks: list[tuple[FailedLoad | None, list[str]]] = [
        (None, []), (BROKEN, []), (BROKEN, []), (BROKEN, [watch]), (None, []), (None, []),
    ]  # fmt: skip
    for failed, failing in looks:
        health.look("vgg19:1", failed, failing)
    damaged = "2 can't be loaded: its files are damaged"
    assert [(kind, problems) for kind, problems, _ in events.told] == [
        ("service.failing", [damaged]),
        ("service.failing", [damaged, watch]),
        ("service.recovered", []),
    ]


def test_what_is_over_while_a_load_still_fails_is_an_event_of_its_own() -> None:
    events = Noted()
    health = HealthEvents(events, 1)
    for failing in ([], ["the watch over promotions"], []):
        health.look("vgg19:1", BROKEN, failing)
    problems = [len(told[1]) for told in events.told]
    assert problems == [1, 2, 1]
    assert events.told[0][2] is not None
    assert [told[2] for told in events.told[1:]] == [None, None]


def test_the_workers_of_a_host_tell_of_a_failed_load_with_one_id() -> None:
    told = []
    for worker in (1, 2):
        events = Noted()
        HealthEvents(events, worker).look("vgg19:1", BROKEN, [])
        told.append(events.told[0][2])
    again = Noted()
    anew = FailedLoad(DesiredVersion("2", (8, 8)), "its files are damaged")  # promoted again
    HealthEvents(again, 1).look("vgg19:1", anew, [])
    assert told[0] is not None
    assert told[0] == told[1] != again.told[0][2]
