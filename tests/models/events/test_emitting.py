from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from models.events import emit
from models.events.config import new_key
from models.events.outbox import Outbox


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Outbox:
    key = tmp_path / "events.key"
    key.write_text(new_key())
    monkeypatch.setenv("VGG19_EVENTS_URL", "https://hooks.example.org/secret-path")
    monkeypatch.setenv("VGG19_EVENTS_KEY_FILE", str(key))
    monkeypatch.setenv("VGG19_EVENTS_QUEUE", str(tmp_path / "queue"))
    return Outbox(tmp_path / "queue")


def test_an_event_waits_on_the_disk(queue: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VGG19_EVENTS_SOURCE", "/flowers")
    assert emit("drift.detected", "vgg19:1", {"psi": 0.31}, id="d1")
    (path,) = queue.waiting()
    content = json.loads(path.read_bytes())
    assert (content["type"], content["source"], content["id"], content["data"]) == (
        "vgg19.drift.detected",
        "/flowers",
        "d1",
        {"psi": 0.31},
    )


def test_nothing_is_queued_where_no_events_are_wanted(
    queue: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VGG19_EVENTS_URL")
    assert not emit("events.test", "x", {})
    assert not queue.directory.exists()


def test_the_queue_lies_beside_the_store(
    queue: Outbox, store_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VGG19_EVENTS_QUEUE")
    emit("events.test", "x", {})
    assert len(Outbox(store_home / ".vgg19-events").waiting()) == 1


@pytest.mark.parametrize("wrong", ["url", "data", "disk"])
def test_what_goes_wrong_is_logged_and_never_raised(
    queue: Outbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, wrong: str
) -> None:
    if wrong == "url":
        monkeypatch.setenv("VGG19_EVENTS_URL", "http://hooks.example.org/secret-path")
    if wrong == "disk":
        queue.directory.write_text("a file where the directory is to be")
    data = {"psi": float("nan") if wrong == "data" else 0.1}
    with caplog.at_level(logging.WARNING):
        assert not emit("drift.detected", "vgg19:1", data)
    (message,) = caplog.messages
    assert message.startswith("the event drift.detected of vgg19:1 is not sent: ")
    assert "secret-path" not in message
