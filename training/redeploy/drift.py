"""Has any of the services raised an alarm? Asked where a job is to begin only then."""

from __future__ import annotations

from collections.abc import Sequence

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError

from models.errors import UserError
from training.redeploy.smoke_test import ServiceConfig

_TIMEOUT_S = 30.0


class _Alarm(BaseModel):
    features: list[str]


class _Drift(BaseModel):
    alarm: _Alarm | None


class _Reply(BaseModel):
    """What is needed of `GET /drift`."""

    model_config = ConfigDict(protected_namespaces=())

    model_version: str
    watched: bool
    reason: str | None
    drift: _Drift | None


class DriftError(UserError):
    """A service can't say whether there is drift."""


def drifting(services: Sequence[ServiceConfig]) -> str | None:
    """What the first service with an alarm says of it; None: none has one.

    Raises:
        DriftError: one doesn't answer, or doesn't watch its model.
    """
    for service in services:
        reply = _ask(service)
        if not reply.watched:
            raise DriftError(
                f"{service.http} doesn't watch version {reply.model_version}: "
                f"{reply.reason or 'it has just begun'}; or set start_on to 'images'"
            )
        if reply.drift is not None and reply.drift.alarm is not None:
            return f"{service.http}: {', '.join(reply.drift.alarm.features)}"
    return None


def _ask(service: ServiceConfig) -> _Reply:
    url = f"{service.http.rstrip('/')}/drift"
    try:
        answer = httpx.get(url, headers=service.authorization(), timeout=_TIMEOUT_S)
        answer.raise_for_status()
        return _Reply.model_validate_json(answer.content)
    except (httpx.HTTPError, ValueError) as error:
        why = "its answer is another's" if isinstance(error, ValidationError) else error
        raise DriftError(
            f"{url} doesn't say whether there is drift ({why}); is it a service of this project "
            "with VGG19_DRIFT on?"
        ) from None
