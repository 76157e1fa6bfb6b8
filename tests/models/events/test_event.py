from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest

from models.events.event import MAX_BYTES, Event


def test_the_attributes_are_those_of_cloudevents_1_0() -> None:
    at = datetime(2026, 1, 31, 13, 0, 0, 250_000, timezone(timedelta(hours=1)))
    event = Event("model.promoted", "vgg19:7", {"why": "é"}, "/flowers", id="a1", time=at)
    assert json.loads(event.as_json("0001")) == {
        "specversion": "1.0",
        "id": "a1",
        "source": "/flowers",
        "type": "vgg19.model.promoted",
        "subject": "vgg19:7",
        "time": "2026-01-31T12:00:00.250000Z",
        "datacontenttype": "application/json",
        "sequence": "0001",
        "data": {"why": "é"},
    }


def test_each_event_has_an_id_and_a_time_of_its_own() -> None:
    first, second = (Event("events.test", "x", {}, "/vgg19") for _ in range(2))
    assert first.id != second.id
    assert abs(first.time - datetime.now(UTC)) < timedelta(minutes=1)


def test_data_that_is_too_large_is_replaced_by_its_size() -> None:
    content = Event("model.refused", "x", {"table": "ü" * MAX_BYTES}, "/vgg19").as_json("1")
    assert len(content) < 500
    assert json.loads(content)["data"]["left_out"].endswith(f"the limit is {MAX_BYTES}")


def test_a_name_that_is_no_text_becomes_some() -> None:
    content = Event("drift.detected", "a\n\udce9", {"file": "\udce9"}, "/vgg19").as_json("1")
    assert json.loads(content)["subject"] == r"a\n\xe9"


def test_nan_is_no_json() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        Event("drift.detected", "x", {"psi": float("nan")}, "/vgg19").as_json("1")
