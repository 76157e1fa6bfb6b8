"""Delivers the events that wait: one after another, the oldest first, each until it is taken.

Promises: an event leaves the queue only when its receiver has answered with 2xx, so it is delivered
once or more often, in order; one process at a time delivers; and nothing goes anywhere but to the
configured URL. An answer of 400, 413, 415 or 422 says that the receiver doesn't take this very
event: where it says so again an hour after it first did, the event is dropped and counted, since it
would hold up all behind it.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event as Signal
from threading import Thread

from models.errors import UserError
from models.events.config import EventsConfig, EventsError, read_keys
from models.events.event import NotAnEvent
from models.events.outbox import Outbox
from models.events.webhook import post

logger = logging.getLogger(__name__)

# Between two looks at a queue that is empty, or that another process delivers.
_LOOK_S = 1.0
# Doubled with each failure; the upper limit is how late events come after a receiver is back.
_MIN_PAUSE_S, _MAX_PAUSE_S = 1.0, 60.0
# Of the event itself; other answers may change with the receiver's configuration.
_NOT_THIS_EVENT = (400, 413, 415, 422)
_REFUSED_FOR_NS = 3600 * 10**9


class DeliveryError(UserError):
    """An event wasn't taken; it waits."""

    def __init__(self, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class Sender:
    """Delivers from the queue of a configuration.

    Args:
        on_failure: told each failure; on_success: each event that was taken.
        max_pause_s: between two tries.
    """

    config: EventsConfig
    outbox: Outbox
    on_failure: Callable[[Exception], object] = lambda error: None
    on_success: Callable[[], object] = lambda: None
    max_pause_s: float = _MAX_PAUSE_S

    def run(self, stop: Signal) -> None:
        """Deliver until `stop` is set: a thread's work. Whatever goes wrong is told, and tried
        again."""
        while not stop.is_set():
            try:
                with self.outbox.sending() as mine:
                    if mine:  # also between two events: another process would change the order
                        self._deliver_until(stop)
            except Exception as error:  # of the disk
                self.on_failure(error)
            stop.wait(_LOOK_S)

    def send_waiting(self) -> None:
        """Deliver what waits now, unless another process does that already.

        Raises:
            EventsError, DeliveryError: it can't be; the rest waits.
            OSError: of the queue's disk.
        """
        with self.outbox.sending() as mine:
            for path in self.outbox.waiting() if mine else ():
                self._send(path)

    def _deliver_until(self, stop: Signal) -> None:
        failures = 0
        while not stop.is_set():
            pause_s = _LOOK_S
            try:
                for path in self.outbox.waiting():
                    if stop.is_set():
                        return
                    self._send(path)
                    failures = 0
                    self.on_success()
            except Exception as error:  # of the receiver, of the disk, of a key file
                pause_s = self._pause_s(failures, error)
                failures += 1
                self.on_failure(error)
            stop.wait(pause_s)

    def _pause_s(self, failures: int, error: Exception) -> float:
        """Twice as long each time, and anything from half of that: what failed together is not to
        come again together (exponential backoff and jitter, AWS Architecture Blog, 2015)."""
        longest = min(self.max_pause_s, _MIN_PAUSE_S * float(2 ** min(failures, 20)))
        asked_for = error.retry_after_s if isinstance(error, DeliveryError) else 0.0
        pause_s = longest * random.uniform(0.5, 1.0)  # noqa: S311  # not for secrets
        return max(pause_s, min(asked_for, self.max_pause_s))

    def _send(self, path: Path) -> None:
        try:
            body = path.read_bytes()
        except FileNotFoundError:  # it made room meanwhile
            return
        try:
            answer = post(self.config.url, body, read_keys(self.config.key_file))
        except NotAnEvent as error:  # nobody will ever take it, and it would hold up all behind it
            self.outbox.drop(path)
            logger.error("%s is dropped: %s", path, error)
            return
        except OSError as error:
            raise DeliveryError(f"{self.config.receiver} doesn't answer: {_text(error)}") from None
        if answer.is_taken:
            self.outbox.remove(path)
        elif answer.status in _NOT_THIS_EVENT and self._is_refused_for_good(path):
            self.outbox.drop(path)
            logger.error(
                "%s answers an event with %d, an hour after it first did; it is dropped: %s",
                self.config.receiver, answer.status, path.name,
            )  # fmt: skip
        else:
            raise DeliveryError(
                f"{self.config.receiver} answers {answer.status}; events wait in "
                f"{self.outbox.directory}",
                answer.retry_after_s,
            )

    def _is_refused_for_good(self, path: Path) -> bool:
        """How long it has waited says nothing: its receiver may have been away until now."""
        return time.time_ns() - self.outbox.refused_since(path) >= _REFUSED_FOR_NS


def deliver(config: EventsConfig, max_s: float) -> str:
    """Deliver what waits, for so long at most; what is left waits for the service or for the next
    command.

    Returns:
        why something is left; "" if nothing is.
    """
    problem: list[str] = []

    def work() -> None:
        try:
            Sender(config, Outbox(config.queue)).send_waiting()
        except (EventsError, DeliveryError, OSError) as error:
            problem.append(str(error))

    # A daemon, since a look-up of a name can't be interrupted. What it was sending comes again.
    thread = Thread(target=work, name="events", daemon=True)
    thread.start()
    thread.join(max_s)
    if thread.is_alive():
        return f"{config.receiver} takes more than {max_s:g} s"
    return "".join(problem)


def _text(error: OSError) -> str:
    return error.strerror or " ".join(str(error).split()) or type(error).__name__
