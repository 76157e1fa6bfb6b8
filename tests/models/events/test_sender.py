"""Against real HTTP servers that answer, fail, hang, restart and send elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event as Signal
from threading import Thread

import pytest

from models.events import sender, webhook
from models.events.config import EventsConfig, new_key, parse_url
from models.events.event import Event
from models.events.outbox import Outbox
from models.events.sender import Sender, deliver
from testing.ports import free_port
from testing.waiting import HANG_S, wait_until
from tests.models.events.receiver import (
    CLOSE,
    DRIP,
    HANG,
    NO_HTTP,
    OK,
    receiver,
)

RUN = """
import sys
from pathlib import Path
from threading import Event
from models.events.config import EventsConfig, parse_url
from models.events.outbox import Outbox
from models.events.sender import Sender
url, key, queue = sys.argv[1:]
config = EventsConfig(parse_url(url, allow_http=False), Path(key), Path(queue))
Sender(config, Outbox(config.queue)).run(Event())
"""


@pytest.fixture
def key(tmp_path: Path) -> Path:
    file = tmp_path / "events.key"
    file.write_text(new_key())
    return file


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "_LOOK_S", 0.02)
    monkeypatch.setattr(sender, "_MIN_PAUSE_S", 0.02)


@pytest.fixture
def short_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a receiver that hangs. Long enough for the next request, which is answered."""
    monkeypatch.setattr(webhook, "_WHOLE_S", 1.5)
    monkeypatch.setattr(webhook, "_TIMEOUT_S", 1.0)


def configured(tmp_path: Path, url: str, count: int = 3) -> EventsConfig:
    """A configuration whose queue holds events with the numbers from 0."""
    config = EventsConfig(
        parse_url(url, allow_http=False), tmp_path / "events.key", tmp_path / "queue"
    )
    append(config, range(count))
    return config


def append(config: EventsConfig, numbers: range) -> None:
    for number in numbers:
        Outbox(config.queue).append(Event("events.test", "x", {"number": number}, "/vgg19"))


def waiting(config: EventsConfig) -> int:
    return len(Outbox(config.queue).waiting())


@contextmanager
def running(config: EventsConfig) -> Iterator[list[Exception]]:
    """A sender in a thread, as the service has one; what failed."""
    stop, failures = Signal(), list[Exception]()
    one = Sender(config, Outbox(config.queue), on_failure=failures.append, max_pause_s=0.1)
    thread = Thread(target=one.run, args=(stop,))
    thread.start()
    try:
        yield failures
    finally:
        stop.set()
        thread.join()


def test_what_waits_is_delivered_in_order(tmp_path: Path, key: Path) -> None:
    with receiver() as there:
        config = configured(tmp_path, there.url)
        assert deliver(config, HANG_S) == ""
        assert there.numbers == [0, 1, 2]
        path, headers, _ = there.requests[0]
        assert path == "/hook?x=1"
        assert headers["Content-Type"] == "application/cloudevents+json; charset=utf-8"
    assert waiting(config) == 0


@pytest.mark.parametrize(
    "answers",
    [
        ["500", "503", OK],
        [OK, "429 Retry-After=0", OK],
        [HANG, OK],
        [DRIP, OK],
        [CLOSE, OK],
        [NO_HTTP, OK],
        ["401", "404", OK],
        [OK, "400", "422", OK],
        ["302 Location=/elsewhere", "307 Location=http://127.0.0.1:9/", OK],
    ],
)
def test_a_receiver_that_fails_gets_them_later_and_in_order(
    tmp_path: Path, key: Path, answers: list[str], request: pytest.FixtureRequest
) -> None:
    if {HANG, DRIP} & set(answers):
        request.getfixturevalue("short_limits")
    failures_to_come = len([one for one in answers if one != OK])
    with receiver(*answers) as there:
        config = configured(tmp_path, there.url)
        with running(config) as failures:
            wait_until(lambda: waiting(config) == 0)
        assert there.numbers == [0, 1, 2]
        assert {path for path, _, _ in there.requests} == {"/hook?x=1"}  # no redirect is followed
        assert len(failures) == failures_to_come
        assert all("hook" not in str(failure) for failure in failures)


def test_a_receiver_that_restarts(tmp_path: Path, key: Path) -> None:
    with receiver() as there:
        config, port = configured(tmp_path, there.url), there.port
        with running(config) as failures:
            wait_until(lambda: len(there.events) == 3)
            there.stop()
            append(config, range(3, 6))
            wait_until(lambda: failures)
            with receiver(port=port) as again:
                wait_until(lambda: waiting(config) == 0)
                assert again.numbers == [3, 4, 5]


@pytest.mark.usefixtures("short_limits")
def test_an_answer_that_is_lost_brings_the_event_again(tmp_path: Path, key: Path) -> None:
    """Once or more often: a receiver that hangs after it has taken an event gets it twice."""
    with receiver(HANG, OK) as there:
        config = configured(tmp_path, there.url, count=2)
        with running(config):
            wait_until(lambda: waiting(config) == 0)
        ids = [headers["webhook-id"] for _, headers, _ in there.requests]
        assert ids[0] == ids[1] != ids[2]
        assert there.requests[0][2] == there.requests[1][2]


def test_a_command_waits_no_longer_than_it_says(tmp_path: Path, key: Path) -> None:
    with receiver(HANG) as there:
        config = configured(tmp_path, there.url)
        assert deliver(config, 0.1) == f"http://127.0.0.1:{there.port} takes more than 0.1 s"
    assert waiting(config) == 3


def test_why_nothing_was_delivered(tmp_path: Path, key: Path) -> None:
    port = free_port()
    config = configured(tmp_path, f"http://127.0.0.1:{port}/hook")
    expected = f"http://127.0.0.1:{port} doesn't answer: Connection refused"
    assert deliver(config, HANG_S) == expected
    key.unlink()
    assert "VGG19_EVENTS_KEY_FILE" in deliver(config, HANG_S)
    assert waiting(config) == 3


def test_an_event_that_is_refused_for_an_hour_makes_way(
    tmp_path: Path,
    key: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with receiver("422", "422", "422", OK) as there:
        config = configured(tmp_path, there.url)
        for path in Outbox(config.queue).waiting():  # their receiver was away for two hours
            old = f"{int(path.name[:20]) - 7200 * 10**9:020d}{path.name[20:]}"
            path.rename(path.with_name(old))
        for _ in range(2):
            assert "answers 422; events wait in" in deliver(config, HANG_S)
        assert (waiting(config), Outbox(config.queue).dropped) == (3, 0)
        monkeypatch.setattr(sender, "_REFUSED_FOR_NS", 0)  # an hour later
        assert deliver(config, HANG_S) == ""
        assert there.numbers == [1, 2]
    assert Outbox(config.queue).dropped == 1
    assert "answers an event with 422, an hour after it first did; it is dropped" in caplog.text


def test_an_event_is_refused_since_its_own_first_time(tmp_path: Path, key: Path) -> None:
    outbox = Outbox(configured(tmp_path, "http://127.0.0.1:9", count=2).queue)
    first, second = outbox.waiting()
    since = outbox.refused_since(first)
    assert outbox.refused_since(first) == since < outbox.refused_since(second)
    (outbox.directory / ".refused").write_text("damaged")
    assert outbox.refused_since(second) > since
    assert outbox.waiting() == [first, second]


@pytest.mark.parametrize(
    "content", [b"", b"garbage", b"[]", b"{}", b'{"id": 7}', b'{"id": "a\\nb"}']
)
def test_a_file_that_holds_no_event_makes_way(
    tmp_path: Path, key: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with receiver() as there:
        config = configured(tmp_path, there.url, count=2)
        damaged = Outbox(config.queue).waiting()[0]
        damaged.write_bytes(content)
        assert deliver(config, HANG_S) == ""
        assert there.numbers == [1]
    assert Outbox(config.queue).dropped == 1
    assert f"{damaged} is dropped: it isn't an event" in caplog.text


def test_two_senders_take_turns(tmp_path: Path, key: Path) -> None:
    with receiver() as there:
        config = configured(tmp_path, there.url, count=20)
        with running(config), running(config):
            wait_until(lambda: waiting(config) == 0)
        assert there.numbers == list(range(20))


def test_a_killed_sender_loses_nothing(tmp_path: Path, key: Path) -> None:
    with receiver(*[OK] * 4, HANG) as there:
        config = configured(tmp_path, there.url, count=8)
        command = [sys.executable, "-c", RUN, there.url, str(key), str(config.queue)]
        process = subprocess.Popen(command)
        wait_until(lambda: len(there.requests) == 5)  # in the middle of the fifth
        assert deliver(config, HANG_S) == ""  # left to who sends: the order holds
        process.kill()
        process.wait()
        there.answers[:] = [OK]
        assert deliver(config, HANG_S) == ""
        assert there.numbers == list(range(8))


def test_pauses_grow_and_differ(tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "_MIN_PAUSE_S", 1.0)
    one = Sender(configured(tmp_path, "http://127.0.0.1:9", 0), Outbox(tmp_path))
    for failures, longest in enumerate((1, 2, 4, 8, 16, 32, 60, 60)):
        pauses = {one._pause_s(failures, OSError()) for _ in range(20)}
        assert len(pauses) > 1
        assert all(longest / 2 <= pause <= longest for pause in pauses)
    assert one._pause_s(0, sender.DeliveryError("429", retry_after_s=30)) == 30
    assert one._pause_s(0, sender.DeliveryError("429", retry_after_s=86_400)) == 60


def test_no_proxy_is_asked(tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with receiver() as there, receiver() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setitem(os.environ, name, proxy.url)
        assert deliver(configured(tmp_path, there.url), HANG_S) == ""
        assert proxy.requests == []


def test_a_signature_tells_when(tmp_path: Path, key: Path) -> None:
    with receiver("500", OK) as there:
        config = configured(tmp_path, there.url, count=1)
        deliver(config, HANG_S)
        deliver(config, HANG_S)
        stamps = [int(headers["webhook-timestamp"]) for _, headers, _ in there.requests]
        assert all(abs(stamp - time.time()) < 60 for stamp in stamps)
