"""An event, as CloudEvents 1.0 writes it in JSON
(https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md)."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from models.text import shown

Kind = Literal[
    "model.registered",
    "model.promoted",
    "model.refused",
    "model.rolled-back",
    "canary.step",
    "canary.ended",
    "shadow.disabled",
    "drift.detected",
    "service.failing",
    "service.recovered",
    "events.test",
]
_TYPE_PREFIX = "vgg19."
# What every intermediary forwards, by section "Size limits" of the specification.
MAX_BYTES = 64 * 1024
# Of the JSON format; the body's media type in structured mode.
MEDIA_TYPE = "application/cloudevents+json; charset=utf-8"


class NotAnEvent(ValueError):
    """Bytes that are none of `Event.as_json`."""


@dataclass(frozen=True)
class Event:
    """Something that happened.

    Args:
        subject: what it is about; mostly a model's tag.
        data: anything that JSON can hold.
        source: tells this installation's events from another's.
        id: the same for the same occurrence, however often it is told.
    """

    kind: Kind
    subject: str
    data: dict[str, Any]
    source: str
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    time: datetime = field(default_factory=lambda: datetime.now(UTC))

    def as_json(self, sequence: str) -> bytes:
        """UTF-8, at most `MAX_BYTES`: data that is larger is replaced by its size.

        Args:
            sequence: later events have larger ones, as text (CloudEvents' extension `sequence`).

        Raises:
            ValueError, TypeError: JSON can't hold the data; NaN and Inf are no JSON.
        """
        content = _json(self._content(sequence, self.data))
        if len(content) <= MAX_BYTES:
            return content
        left_out = {"left_out": f"the data has {len(content)} bytes, the limit is {MAX_BYTES}"}
        return _json(self._content(sequence, left_out))

    def _content(self, sequence: str, data: dict[str, Any]) -> dict[str, Any]:
        return {
            "specversion": "1.0",
            "id": self.id,
            "source": self.source,
            "type": _TYPE_PREFIX + self.kind,
            "subject": shown(self.subject)[:200],
            "time": self.time.astimezone(UTC).isoformat().replace("+00:00", "Z"),
            "datacontenttype": "application/json",
            "sequence": sequence,
            "data": data,
        }


def id_of(body: bytes) -> str:
    """The id of an event in JSON, which goes into a header.

    Raises:
        NotAnEvent: the bytes hold none that a header can hold.
    """
    try:
        found = json.loads(body)["id"]
    except (ValueError, KeyError, TypeError, RecursionError):
        found = None
    if not isinstance(found, str) or not found.isascii() or not found.isprintable():
        raise NotAnEvent("it isn't an event in JSON with an id of ASCII")
    return found


def _json(content: dict[str, Any]) -> bytes:
    # Lone surrogates of file names have no UTF-8, so what isn't ASCII is escaped.
    return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")
