"""Let a version answer a part of the requests, take it further or take it back."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

from pydantic import ValidationError

from models.errors import StoreError, UserError
from models.monitoring.canary_tests import CanaryLimits, CanaryTally, evidence, harm
from models.registry import store
from models.registry.rollouts import Canary
from models.registry.shadowing import directory, end_if_stale, is_stale, refusal, rollouts
from models.registry.tallies import read_tallies, remove_tallies
from models.text import shown

_HEADER = re.compile(r"[A-Za-z0-9-]{1,60}")
_ALL = 100.0


class CanaryError(UserError):
    """A canary can't be as it was asked for."""


def start_canary(
    reference: str,
    steps: Sequence[float],
    *,
    wait_hours: float,
    min_requests: int,
    header: str = "",
    limits: CanaryLimits | None = None,
    why: str = "begun by hand",
) -> Canary:
    """Have the services answer the first step's percent of their clients with a version.

    Args: see `Canary`.

    Raises:
        CanaryError: the steps don't rise within 0 to 100, or are too many; the hours or requests
            aren't a number that can be waited for; the header is none.
        StoreError: see `models.registry.shadowing.start_shadow`; or its shadow's rule doesn't hold.
        BundleError: its files don't match its manifest.
    """
    rising = all(low < high for low, high in zip((0.0, *steps), steps, strict=False))
    if not steps or not rising or steps[-1] > _ALL:
        listed = ",".join(f"{step:g}" for step in steps)
        raise CanaryError(
            f"the steps are {listed or 'none'}; they must rise, above 0 and up to 100"
        )
    if header and not _HEADER.fullmatch(header):
        raise CanaryError(f"'{header[:60]}' is no name of a header; one is like X-User-Id")
    version, against = store.resolve(reference), store.resolve(store.PRODUCTION)
    if version == against:
        raise StoreError(f"{store.MODEL_NAME}:{version} is in production; name another version")
    canary = _canary(
        version=version,
        against=against,
        steps=tuple(steps),
        wait_hours=wait_hours,
        min_requests=min_requests,
        header=header.lower(),
        limits=limits or CanaryLimits(),
    )
    if canary.percent >= _ALL:
        raise CanaryError("the first step is 100; that is 'vgg19 promote'")
    store.open_stored(version)
    end_if_stale()
    if found := refusal(version):
        raise StoreError(f"{version} is in the shadow, whose rule doesn't hold: {found}")
    current = rollouts().current()
    if current is not None and current.kind == "shadow" and current.version == version:
        rollouts().end(current, "passed", "its rule holds, and a canary was begun")
    rollouts().begin(canary, f"{why}, {canary.percent:g}%")
    remove_tallies(directory(), canary.id)
    return canary


def _canary(**fields: Any) -> Canary:
    try:
        return Canary.model_validate(fields)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        value = shown(str(problem["input"])[:60])
        raise CanaryError(f"{problem['loc'][0]} is {value}: {problem['msg']}") from None


def current_canary() -> Canary | None:
    current = rollouts().current()
    return current if isinstance(current, Canary) else None


def abort_canary(why: str = "aborted by hand") -> Canary | None:
    """All requests go to production again; None: there was no canary."""
    canary = current_canary()
    if canary is not None:
        rollouts().end(canary, "aborted", why)
    return canary


def tallies_of(canary: Canary) -> list[CanaryTally]:
    return read_tallies(directory(), canary.id, CanaryTally)


def canary_json() -> dict[str, Any] | None:
    """How far the canary is, for machines; None: none runs."""
    canary = current_canary()
    if canary is None:
        return None
    tallies = tallies_of(canary)
    return {
        "canary": canary.model_dump(mode="json"),
        "percent": canary.percent,
        "requests": sum(tally.requests for tally in tallies),
        "production_requests": sum(tally.production_requests for tally in tallies),
        "threshold_log_e": canary.limits.threshold,
        "evidence": [one.model_dump(mode="json") for one in evidence(tallies, canary.limits)],
        "workers": [
            tally.model_dump(mode="json", include={"worker", "state", "reason"})
            for tally in tallies
        ],
    }


def decide(canary: Canary) -> str:
    """Take the canary back, a step further, or into production, if it is time for one of them.

    Every worker may call it: of several the first one's decision counts. A kill at any instant
    leaves the old state or the new one: a canary that was promoted and not ended yet is stale.

    Returns:
        what was done, for the log; "": nothing.
    """
    if is_stale(canary):  # what somebody promoted meanwhile isn't to be replaced by it
        return ""
    tallies = tallies_of(canary)
    if why := harm(tallies, canary.limits):
        return f"taken back: {why}" if rollouts().end(canary, "returned", why) else ""
    requests = sum(tally.requests for tally in tallies)
    compared = min(requests, sum(tally.production_requests for tally in tallies))
    if canary.step_hours < canary.wait_hours or compared < canary.min_requests:
        return ""  # where one of the two has no clients, nothing was compared
    further = canary.next_step()
    why = f"{requests} requests without harm, {canary.step_hours:.1f} hours at {canary.percent:g}%"
    if further is None:
        return ""
    if further.percent < _ALL:
        return f"{further.percent:g}%: {why}" if rollouts().advance(canary, why) else ""
    promote = partial(store.promote, canary.version, f"canary: {why}", instead_of=canary.against)
    try:
        return f"promoted: {why}" if rollouts().promote(canary, promote, why) else ""
    except UserError as error:  # left as it is, it would be tried for ever
        why = f"it can't be promoted: {error}"
        return f"taken back: {why}" if rollouts().end(canary, "returned", why) else ""
