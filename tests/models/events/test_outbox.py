from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from models.events.event import Event
from models.events.outbox import Outbox

APPEND = """
import sys
from pathlib import Path
from models.events.event import Event
from models.events.outbox import Outbox
outbox = Outbox(Path(sys.argv[1]))
for number in range(int(sys.argv[3])):
    outbox.append(Event("events.test", sys.argv[2], {"number": number}, "/vgg19"))
    print(number, flush=True)
"""


def event(number: int, identifier: str | None = None) -> Event:
    return Event("events.test", "x", {"number": number}, "/vgg19", id=identifier or f"id-{number}")


def numbers(outbox: Outbox) -> list[int]:
    return [json.loads(path.read_bytes())["data"]["number"] for path in outbox.waiting()]


def append_in_a_process(place: Path, name: str, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", APPEND, str(place), name, str(count)],
        stdout=subprocess.PIPE,
        text=True,
    )


def test_events_wait_in_the_order_in_which_they_came(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "queue")
    assert outbox.waiting() == []
    assert all(outbox.append(event(number)) for number in range(20))
    assert numbers(outbox) == list(range(20))
    sequences = [json.loads(path.read_bytes())["sequence"] for path in outbox.waiting()]
    assert sequences == sorted(sequences)
    outbox.remove(outbox.waiting()[0])
    assert numbers(Outbox(tmp_path / "queue")) == list(range(1, 20))


def test_a_clock_that_is_set_back_changes_no_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = Outbox(tmp_path)
    for number, now in enumerate((5_000, 9_000, 100, 100)):
        monkeypatch.setattr(time, "time_ns", lambda now=now: now)
        outbox.append(event(number))
    assert numbers(outbox) == [0, 1, 2, 3]


def test_what_waits_already_is_not_queued_again(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    assert outbox.append(event(1, "same"))
    assert not outbox.append(event(2, "same"))
    assert numbers(outbox) == [1]


def test_the_oldest_make_room_counted_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = Outbox(tmp_path, limit=3)
    assert outbox.dropped == 0
    with caplog.at_level(logging.WARNING):
        for number in range(8):
            outbox.append(event(number))
    assert numbers(outbox) == [5, 6, 7]
    assert outbox.dropped == Outbox(tmp_path).dropped == 5
    assert "3 events wait in" in caplog.messages[-1]
    assert "the oldest is dropped (5 by now)" in caplog.messages[-1]


def test_processes_append_beside_each_other(tmp_path: Path) -> None:
    """Each one's events stay in its order, and none is lost."""
    names = ("a", "b")
    processes = [append_in_a_process(tmp_path, name, 40) for name in names]
    assert [process.wait() for process in processes] == [0, 0]
    for process in processes:
        process.communicate()
    found = [json.loads(path.read_bytes()) for path in Outbox(tmp_path).waiting()]
    for name in names:
        of_one = [one["data"]["number"] for one in found if one["subject"] == name]
        assert of_one == list(range(40))


def test_what_was_appended_survives_a_kill(tmp_path: Path) -> None:
    process = append_in_a_process(tmp_path, "x", 100_000)
    assert process.stdout is not None
    told = [int(process.stdout.readline()) for _ in range(30)]
    process.kill()
    told += [int(line) for line in process.stdout.read().split()]
    process.wait()
    process.stdout.close()
    assert numbers(Outbox(tmp_path))[: len(told)] == told  # each whole, and perhaps one more


def test_one_process_sends_at_a_time(tmp_path: Path) -> None:
    first, second = Outbox(tmp_path), Outbox(tmp_path)
    with first.sending() as mine, second.sending() as also_mine:
        assert (mine, also_mine) == (True, False)
    with second.sending() as mine:
        assert mine


def test_what_a_killed_process_left_is_removed_later(tmp_path: Path) -> None:
    old, new = (tmp_path / f".00000000000000000001-ab.json-{name}" for name in ("old", "new"))
    for path in (old, new):
        path.write_text("{")
    os.utime(old, (1, 1))
    with Outbox(tmp_path).sending():
        assert not old.exists()
        assert new.exists()
    assert Outbox(tmp_path).waiting() == []
