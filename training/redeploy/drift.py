"""Has any of the services raised an alarm? Asked where a job is to begin only then."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httpx

from models.errors import UserError
from training.redeploy.smoke_test import ServiceConfig

_TIMEOUT_S = 30.0


class DriftError(UserError):
    """A service can't say whether there is drift."""


def drifting(services: Sequence[ServiceConfig]) -> str | None:
    """What the first service with an alarm says of it; None: none has one.

    Raises:
        DriftError: one doesn't answer, or doesn't watch its model.
    """
    for service in services:
        reply = _ask(service)
        if not reply["watched"]:
            raise DriftError(
                f"{service.http} doesn't watch version {reply['model_version']}: "
                f"{reply['reason'] or 'it has just begun'}; or set start_on to 'images'"
            )
        alarm = (reply["drift"] or {}).get("alarm")
        if alarm is not None:
            return f"{service.http}: {', '.join(alarm['features'])}"
    return None


def _ask(service: ServiceConfig) -> dict[str, Any]:
    url = f"{service.http.rstrip('/')}/drift"
    try:
        answer = httpx.get(url, headers=service.authorization(), timeout=_TIMEOUT_S)
        answer.raise_for_status()
        reply: dict[str, Any] = answer.json()
        return {name: reply[name] for name in ("watched", "model_version", "reason", "drift")}
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        raise DriftError(
            f"{url} doesn't say whether there is drift ({error}); is it a service of this project "
            "with VGG19_DRIFT on?"
        ) from None
