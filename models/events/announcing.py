"""Events of the registry: a version was registered, promoted, rolled back; a canary's steps.

The history of production is on the disk already, so it is what promotions are told from: whoever
looks queues an event for each one since the last that was told. A command that is killed between
its promotion and the event of it, or an older release that knows no events, leaves none untold.
"""

from __future__ import annotations

import fcntl
import logging
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Protocol, TypeVar

from models.events.config import from_environment
from models.events.emitting import emit
from models.files import staged_file
from models.registry import shadowing, store
from models.registry.promotions import Promotion
from models.registry.rollouts import Event as RolloutEvent

logger = logging.getLogger(__name__)

# The ids of what was told last, in the queue's directory; and the lock around them.
_TOLD, _ROLLOUT_TOLD, _LOCK = ".announced", ".announced-rollout", ".announcing"
# Telling takes milliseconds: who holds the lock for longer is stopped, or hangs on its disk.
_LOCK_WAIT_S, _LOCK_LOOK_S = 2.0, 0.05
# Queues of which the log says already that somebody holds them.
_held: set[Path] = set()


class _Line(Protocol):
    """Of a history."""

    @property
    def id(self) -> str: ...


L = TypeVar("L", bound=_Line)


def announce_registration(tag: str) -> None:
    """Queue the event of a version that is in the store; again with the same id."""
    emit("model.registered", tag, {"model": tag}, id=uuid.uuid5(uuid.NAMESPACE_OID, tag).hex)


class _Held(Exception):
    """Another process is telling, and doesn't end. Its argument is the queue."""


def announce_promotions() -> bool:
    """Queue an event for each promotion since the last one that was told, in their order; the first
    time only for the present one. Never raises, as `emit`: what couldn't be told is next time.

    Returns:
        False: nothing was tried, because another process is at it for longer than `_LOCK_WAIT_S`.
        Call again.
    """
    try:
        config = from_environment()
        if config is not None:
            _announce(config.queue)
            _held.discard(config.queue)
    except _Held as error:
        (queue,) = error.args
        if queue not in _held:
            _held.add(queue)
            logger.warning(
                "promotions and canaries are not told yet: another process holds %s for more than "
                "%g s", queue / _LOCK, _LOCK_WAIT_S
            )  # fmt: skip
        return False
    except Exception as error:  # of the store or the disk
        logger.warning("promotions and canaries are not told: %s", error)
    return True


@contextmanager
def _locked(queue: Path) -> Iterator[None]:
    """Raises _Held."""
    queue.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + _LOCK_WAIT_S
    with (queue / _LOCK).open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise _Held(queue) from None
                time.sleep(_LOCK_LOOK_S)
        yield


def _announce(queue: Path) -> None:
    with _locked(queue):
        promotions = store.promotions()
        for promotion in reversed(_untold(promotions, queue / _TOLD)):
            served_before = {one.version for one in _before(promotions, promotion)}
            if promotion.why != store.CAME_WITH_IMAGE and not _queued(promotion, served_before):
                return  # why is in the log
            _note(queue / _TOLD, promotion.id)
        for event in reversed(_untold(shadowing.rollouts().events(), queue / _ROLLOUT_TOLD)):
            if event.kind == "canary" and not _queued_step(event):
                return
            _note(queue / _ROLLOUT_TOLD, event.id)


def _note(told: Path, identifier: str) -> None:
    with staged_file(told) as staging:
        staging.write_text(identifier, encoding="utf-8")


def _untold(promotions: Sequence[L], told: Path) -> Sequence[L]:
    """Of the history, the present one first, what comes before the one that was told last."""
    try:
        last = told.read_text(encoding="utf-8")
    except FileNotFoundError:
        last = ""
    if all(promotion.id != last for promotion in promotions):  # none yet, or another store's
        return promotions[:1]
    return list(takewhile(lambda promotion: promotion.id != last, promotions))


def _before(promotions: list[Promotion], promotion: Promotion) -> list[Promotion]:
    return promotions[promotions.index(promotion) + 1 :]


def _queued(promotion: Promotion, served_before: set[str]) -> bool:
    is_rollback = promotion.restores is not None or promotion.version in served_before
    return emit(
        "model.rolled-back" if is_rollback else "model.promoted",
        _tag(promotion.version),
        {
            "model": _tag(promotion.version),
            "replaced": promotion.replaced and _tag(promotion.replaced),
            "why": promotion.why,
        },
        id=promotion.id,
        time=promotion.at,
    )


def _queued_step(event: RolloutEvent) -> bool:
    is_step = event.what == "begun" or event.what.endswith("%")
    tag = _tag(event.version)
    return emit(
        "canary.step" if is_step else "canary.ended",
        tag,
        {"model": tag, "what": event.what, "why": event.why},
        id=event.id,
        time=event.at,
    )


def _tag(version: str) -> str:
    return f"{store.MODEL_NAME}:{version}"
