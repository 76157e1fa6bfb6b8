"""Events into the queue."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

from models.events.config import from_environment
from models.events.event import Event, Kind
from models.events.outbox import Outbox

logger = logging.getLogger(__name__)


def emit(
    kind: Kind,
    subject: str,
    data: dict[str, Any],
    *,
    id: str | None = None,  # noqa: A002  # CloudEvents' own word
    time: datetime | None = None,
) -> bool:
    """Queue an event, where VGG19_EVENTS_URL is set. Takes milliseconds, and never raises: what it
    tells of has happened. What goes wrong is logged.

    Args:
        subject: what it is about; mostly a model's tag.
        data: anything that JSON can hold, 64 kB at most.
        id: the same for the same occurrence, so that receivers know it when they hear of it again,
            from another worker or after a crash; and one that waits isn't queued twice. None: a
            new one.
        time: when it happened; None: now.

    Returns:
        whether it waits in the queue now.
    """
    try:
        config = from_environment()
        if config is None:
            return False
        event = Event(
            kind,
            subject,
            data,
            config.source,
            **({} if id is None else {"id": id}),
            time=time or datetime.now(UTC),
        )
        Outbox(config.queue).append(event)
    except Exception as error:  # whatever it is, what it tells of stands
        logger.warning("the event %s of %s is not sent: %s", kind, subject, error)
        return False
    return True
