"""The events of one worker process: into the queue without a wait, and from there to the receiver.

Promise: no request and no turn of the event loop waits for the disk or for the receiver.
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable
from functools import partial
from threading import Event as Signal
from threading import Thread
from typing import Any

from models.events import Kind, emit
from models.events.announcing import announce_promotions
from models.events.config import EventsConfig, check
from models.events.outbox import Outbox
from models.events.sender import Sender
from serving.core.pool import FailedLoad
from serving.core.supervisor import Supervisor
from serving.core.workers import Workers

# By what name it is logged and counted.
_WORK = "events"


class Events:
    """Queues events, and delivers what waits if no other process does. One for a worker; all
    methods belong to its event loop.

    Args:
        config: None: no events are wanted, and nothing is done.
        on_failure: called with the name of the work at each failure, for metrics.

    Raises:
        EventsError: the file of keys or the queue can't be used.
    """

    def __init__(self, config: EventsConfig | None, on_failure: Callable[[str], None]) -> None:
        # Of its own: a receiver that is away doesn't make the service one that isn't ready.
        self._supervisor = Supervisor(on_failure)
        self._stop = Signal()
        self._queue: Workers | None = None
        if config is None:
            return
        check(config)
        self._queue = Workers(1, "events-queue")
        sender = Sender(
            config,
            Outbox(config.queue),
            on_failure=partial(self._supervisor.failed, _WORK),
            on_success=partial(self._supervisor.succeeded, _WORK),
        )
        # A daemon: what it waits for keeps no process alive, and what it was sending comes again.
        Thread(target=sender.run, args=(self._stop,), name="events", daemon=True).start()

    def emit(
        self, kind: Kind, subject: str, data: dict[str, Any], identifier: str | None = None
    ) -> None:
        """As `models.events.emit`, without a wait."""
        if self._queue is not None:
            self._queue.run(partial(emit, kind, subject, data, id=identifier))

    def announce(self) -> None:
        """Queue what was promoted and not told yet, without a wait."""
        if self._queue is not None:
            self._queue.run(announce_promotions)

    def close(self) -> None:
        """What waits stays on the disk, for another process or the next start."""
        self._stop.set()
        if self._queue is not None:
            self._queue.close()


class HealthEvents:
    """Tells when a worker can't load what is promoted, or work in its background fails, and when
    that is over.

    Args:
        worker: its number, from 1.
    """

    def __init__(self, events: Events, worker: int) -> None:
        self._events = events
        self._where = {"host": socket.gethostname(), "worker": worker}
        self._told: tuple[str, ...] = ()
        self._failing: list[str] = []  # of what was told

    def look(self, serves: str, failed: FailedLoad | None, failing: list[str]) -> None:
        """Compare with what was told last.

        Args:
            serves: tag of the model that serves all the while.
            failing: work in the background that fails, see `Supervisor.failing`.
        """
        load = [f"{failed.desired.version} can't be loaded: {failed.reason}"] if failed else []
        problems = (*load, *failing)
        if problems == self._told:
            return
        data = {**self._where, "serves": serves, "problems": list(problems)}
        if problems:
            is_shared = not failing and not self._failing
            identifier = self._id(failed, problems) if is_shared else None
            self._events.emit("service.failing", serves, data, identifier)
        else:
            self._events.emit("service.recovered", serves, data)
        self._told, self._failing = problems, failing

    def _id(self, failed: FailedLoad | None, problems: tuple[str, ...]) -> str | None:
        """The workers of a host tell the same of one promotion. What else fails is one worker's,
        and may come and go meanwhile: with an id that it knows, a receiver wouldn't hear that it
        went."""
        if failed is None:
            return None
        occurrence = f"{self._where['host']} {failed.desired} {problems}"
        return hashlib.sha256(occurrence.encode()).hexdigest()[:32]
