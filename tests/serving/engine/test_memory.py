from __future__ import annotations

from threading import Event, Thread

import pytest

from serving.engine import memory
from serving.engine.memory import trim_between_requests
from serving.engine.right_of_way import Traffic

LONG_S = 60.0


def test_memory_is_given_back_between_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    traffic, trimmed = Traffic(), Event()
    monkeypatch.setattr(memory, "_PATIENCE_S", LONG_S)
    monkeypatch.setattr(memory, "trim_memory", trimmed.set)
    traffic.enter()
    thread = Thread(target=trim_between_requests, args=[traffic])
    thread.start()
    assert not trimmed.wait(0.05)
    traffic.leave()
    assert trimmed.wait(LONG_S)
    thread.join()


def test_a_service_that_never_rests_gives_back_memory_as_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    traffic, trimmed = Traffic(), Event()
    monkeypatch.setattr(memory, "_PATIENCE_S", 0.01)
    monkeypatch.setattr(memory, "trim_memory", trimmed.set)
    traffic.enter()
    trim_between_requests(traffic)
    assert trimmed.is_set()
