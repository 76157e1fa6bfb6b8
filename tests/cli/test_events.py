from __future__ import annotations

import errno
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from models.events.config import new_key, read_keys
from models.registry import store
from testing.bundles import write_tiny_bundle
from testing.ports import free_port
from tests.models.events.receiver import HANG, Receiver, receiver

Run = Callable[..., int]


@pytest.fixture
def there(store_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    (tmp_path / "events.key").write_text(new_key())
    with receiver() as running:
        monkeypatch.setenv("VGG19_EVENTS_URL", running.url)
        monkeypatch.setenv("VGG19_EVENTS_KEY_FILE", str(tmp_path / "events.key"))
        yield running


@pytest.fixture
def bundles(tmp_path: Path) -> list[str]:
    days = ("2026-01-01T00:00:00+00:00", "2026-02-01T00:00:00+00:00")
    return [str(write_tiny_bundle(tmp_path / day[:7], created_at=day)) for day in days]


def told(there: Receiver) -> list[tuple[str, str]]:
    return [(one["type"].removeprefix("vgg19.model."), one["subject"]) for one in there.events]


def test_commands_tell_what_they_do_in_order(
    there: Receiver, bundles: list[str], run_main: Run
) -> None:
    tags = []
    for bundle in bundles:
        assert run_main("register", bundle) == 0
        tags.append(f"vgg19:{store.resolve('latest')}")
        assert run_main("promote", tags[-1], "--force") == 0
    assert run_main("rollback") == 0
    first, second = tags
    assert told(there) == [
        ("registered", first),
        ("promoted", first),
        ("registered", second),
        ("promoted", second),
        ("rolled-back", first),
    ]


def test_a_receiver_that_is_away_costs_a_line(
    there: Receiver,
    bundles: list[str],
    run_main: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("VGG19_EVENTS_URL", f"http://127.0.0.1:{free_port()}/secret-path")
    assert run_main("register", bundles[0]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("registered vgg19:")
    assert said.err.startswith("warning: an event waits: http://127.0.0.1:")
    assert said.err.endswith(" doesn't answer: Connection refused\n")
    assert run_main("events") == 0
    assert ": 1 wait, 0 were dropped" in capsys.readouterr().out
    assert run_main("events", "send") == 1
    assert "doesn't answer" in capsys.readouterr().err
    monkeypatch.setenv("VGG19_EVENTS_URL", there.url)
    assert run_main("events", "send") == 0
    assert capsys.readouterr().out == "delivered\n"
    assert [kind for kind, _ in told(there)] == ["registered"]


def test_a_receiver_that_hangs_holds_no_command_up(
    there: Receiver,
    bundles: list[str],
    run_main: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("cli.events._AT_THE_END_S", 0.1)
    there.answers[:] = [HANG]
    assert run_main("register", bundles[0]) == 0
    assert capsys.readouterr().err.endswith(" takes more than 0.1 s\n")


def test_a_mistake_in_the_variables_is_told_and_the_work_is_done(
    there: Receiver,
    bundles: list[str],
    run_main: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("VGG19_EVENTS_URL", "http://hooks.example.org/secret-path")
    assert run_main("register", bundles[0]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("registered vgg19:")
    assert "VGG19_EVENTS_ALLOW_HTTP=true" in said.err
    assert "secret-path" not in said.err


def test_a_test_arrives(there: Receiver, run_main: Run) -> None:
    assert run_main("events", "test") == 0
    assert [event["type"] for event in there.events] == ["vgg19.events.test"]


def test_a_test_that_cannot_wait_is_not_delivered(
    there: Receiver,
    tmp_path: Path,
    run_main: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("models.events.outbox.staged_file", full)
        assert run_main("events", "test") == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "the event can't wait in " in said.err
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VGG19_EVENTS_QUEUE", str(tmp_path / "file"))
    assert run_main("events", "test") == 1
    assert "name a directory that can be written with VGG19_EVENTS_QUEUE" in capsys.readouterr().err


def test_without_a_receiver_there_is_nothing_to_show(
    there: Receiver,
    run_main: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("VGG19_EVENTS_URL")
    for command in (["events"], ["events", "send"], ["events", "test"]):
        assert run_main(*command) == 1
        assert "VGG19_EVENTS_URL is not set" in capsys.readouterr().err


def test_a_new_key_is_its_owners(
    tmp_path: Path, run_main: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "new.key"
    assert run_main("events", "key", str(file)) == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(read_keys(file)) == 1
    assert file.read_text().strip() not in capsys.readouterr().out
    assert run_main("events", "key", str(file)) == 1  # never written over
