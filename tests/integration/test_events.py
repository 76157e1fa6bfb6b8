"""A real service and real commands tell a real receiver what becomes of the models."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.events.config import new_key
from models.events.outbox import Outbox
from testing.commands import vgg19
from testing.ports import free_port
from testing.server import register_version, serve
from testing.waiting import wait_until
from tests.models.events.receiver import receiver


@pytest.mark.exhaustive
def test_what_happened_before_the_service_ran_and_while_it_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = register_version(tmp_path, 1), register_version(tmp_path, 2, lies=True)
    home, key, port = tmp_path / "home", tmp_path / "events.key", free_port()
    key.write_text(new_key())
    monkeypatch.setenv("VGG19_EVENTS_URL", f"http://127.0.0.1:{port}/hook")
    monkeypatch.setenv("VGG19_EVENTS_KEY_FILE", str(key))
    vgg19(home, "promote", good)  # nobody listens
    outbox = Outbox(home / ".vgg19-events")
    assert len(outbox.waiting()) == 1
    with receiver("503", "204", port=port) as there:
        with serve(home, tmp_path / "log", VGG19_WATCH_INTERVAL_S="1") as server:
            wait_until(lambda: len(there.events) == 1)
            vgg19(home, "promote", bad)
            wait_until(lambda: len(there.events) == 3)
            there.answers[:] = ["hang"]
            vgg19(home, "rollback")
            wait_until(lambda: len(there.requests) == 5)
        assert server.process.returncode == 0  # a receiver that hangs keeps no service from ending
        there.answers[:] = ["204"]
        assert vgg19(home, "events", "send") == "delivered\n"
        told = [(one["type"].removeprefix("vgg19."), one["subject"]) for one in there.events]
        assert told[:4] == [
            ("model.promoted", good),
            ("model.promoted", bad),
            ("service.failing", good),
            ("model.rolled-back", good),
        ]
        failing = there.events[2]["data"]
    assert failing["serves"] == good
    assert failing["problems"][0].startswith(f"{bad.removeprefix('vgg19:')} can't be loaded: ")
    assert "doesn't answer" not in (tmp_path / "log").read_text()
