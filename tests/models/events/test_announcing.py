from __future__ import annotations

import fcntl
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from models.events import announcing
from models.events.announcing import announce_promotions, announce_registration
from models.events.config import new_key
from models.events.outbox import Outbox
from models.registry import store
from models.registry.promotions import History
from models.registry.rollouts import Canary, Rollouts, Shadow


@pytest.fixture
def history(store_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> History:
    (tmp_path / "events.key").write_text(new_key())
    monkeypatch.setenv("VGG19_EVENTS_URL", "https://hooks.example.org/")
    monkeypatch.setenv("VGG19_EVENTS_KEY_FILE", str(tmp_path / "events.key"))
    return History(store_home / "models" / "vgg19")


def queued(home: Path) -> list[tuple[str, str]]:
    """(type, subject) of what waits."""
    return [(one["type"], one["subject"]) for one in contents(home)]


def contents(home: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_bytes()) for path in Outbox(home / ".vgg19-events").waiting()]


def test_each_promotion_is_told_once(history: History, store_home: Path) -> None:
    history.promote("1", "by hand")
    announce_promotions()
    announce_promotions()
    history.promote("2", "redeploy job 7: accuracy 93.0%")
    history.promote("3", "by hand")
    announce_promotions()
    assert queued(store_home) == [
        ("vgg19.model.promoted", "vgg19:1"),
        ("vgg19.model.promoted", "vgg19:2"),
        ("vgg19.model.promoted", "vgg19:3"),
    ]
    second, promotion = contents(store_home)[1], history.promotions()[1]
    assert second["data"] == {
        "model": "vgg19:2",
        "replaced": "vgg19:1",
        "why": "redeploy job 7: accuracy 93.0%",
    }
    assert second["id"] == promotion.id
    assert second["time"] == promotion.at.isoformat().replace("+00:00", "Z")


def test_a_way_back_is_called_one(history: History, store_home: Path) -> None:
    for version in ("1", "2", "1"):
        history.promote(version, "by hand")
        announce_promotions()
    assert queued(store_home)[-1] == ("vgg19.model.rolled-back", "vgg19:1")


def test_of_an_old_history_only_the_present_is_told(history: History, store_home: Path) -> None:
    for version in ("1", "2", "3"):
        history.promote(version, "before there were events")
    announce_promotions()
    assert queued(store_home) == [("vgg19.model.promoted", "vgg19:3")]


def test_what_a_killed_command_did_is_told_by_the_next(history: History, store_home: Path) -> None:
    history.promote("1", "by hand")
    announce_promotions()
    history.promote("2", "by a command that is killed here")
    history.promote("3", "by hand")
    announce_promotions()
    assert [subject for _, subject in queued(store_home)] == ["vgg19:1", "vgg19:2", "vgg19:3"]


def test_killed_between_an_event_and_the_note_of_it(history: History, store_home: Path) -> None:
    history.promote("1", "by hand")
    announce_promotions()
    history.promote("2", "by hand")
    told = store_home / ".vgg19-events" / ".announced"
    before = told.read_text()
    announce_promotions()
    told.write_text(before)
    Outbox(store_home / ".vgg19-events").waiting()[1].unlink()  # it was delivered meanwhile
    announce_promotions()
    _, second = contents(store_home)
    assert second["id"] == history.promotions()[0].id  # again, with the same id


def test_an_images_own_model_is_no_news(history: History, store_home: Path) -> None:
    history.promote("1", store.CAME_WITH_IMAGE)
    announce_promotions()
    history.promote("2", "by hand")
    announce_promotions()
    assert queued(store_home) == [("vgg19.model.promoted", "vgg19:2")]


def test_what_cannot_be_told_now_is_told_later(
    history: History,
    store_home: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    history.promote("1", "by hand")
    (store_home / ".vgg19-events").write_text("a file")
    announce_promotions()
    assert caplog.messages[0].startswith("promotions and canaries are not told: ")
    (store_home / ".vgg19-events").unlink()
    with monkeypatch.context() as patch:
        patch.delenv("VGG19_EVENTS_URL")
        announce_promotions()
    assert queued(store_home) == []
    announce_promotions()
    assert queued(store_home) == [("vgg19.model.promoted", "vgg19:1")]


def test_a_registration_that_is_repeated_has_the_same_id(
    history: History, store_home: Path
) -> None:
    announce_registration("vgg19:1")
    (first,) = contents(store_home)
    Outbox(store_home / ".vgg19-events").waiting()[0].unlink()
    announce_registration("vgg19:1")
    announce_registration("vgg19:2")
    again, other = contents(store_home)
    assert first["id"] == again["id"] != other["id"]
    assert first["type"] == "vgg19.model.registered"


def test_a_canarys_steps_are_told(history: History, store_home: Path) -> None:
    history.promote("1", "by hand")
    rollouts = Rollouts(store_home / "models" / "vgg19")
    canary = Canary(version="2", against="1", steps=(5.0, 25.0))
    rollouts.begin(canary, "begun by hand, 5%")
    announce_promotions()
    rollouts.advance(canary, "4,000 requests without harm")
    further = rollouts.current()
    assert further is not None
    rollouts.end(further, "returned", "more requests fail")
    announce_promotions()
    announce_promotions()
    found = [(one["type"], one["data"].get("what")) for one in contents(store_home)]
    assert found == [
        ("vgg19.model.promoted", None),
        ("vgg19.canary.step", "begun"),
        ("vgg19.canary.step", "25.0%"),
        ("vgg19.canary.ended", "returned"),
    ]


def test_a_shadow_is_no_canary(history: History, store_home: Path) -> None:
    rollouts = Rollouts(store_home / "models" / "vgg19")
    rollouts.begin(Shadow(version="2", against="1"), "begun by hand")
    announce_promotions()
    assert queued(store_home) == []


def test_whoever_holds_the_lock_holds_nobody_up(
    history: History,
    store_home: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A process that was stopped while it told; the log says so once, and all is told later."""
    monkeypatch.setattr(announcing, "_LOCK_WAIT_S", 0.01)
    history.promote("1", "by hand")
    queue = store_home / ".vgg19-events"
    queue.mkdir()
    with caplog.at_level(logging.WARNING), (queue / ".announcing").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert [announce_promotions(), announce_promotions()] == [False, False]
        assert queued(store_home) == []
    (message,) = (record.message for record in caplog.records)
    assert "not told yet: another process holds" in message
    assert str(queue / ".announcing") in message
    assert announce_promotions()
    assert queued(store_home) == [("vgg19.model.promoted", "vgg19:1")]
