"""A challenger that passed the gate answers in production's shadow before it is promoted.

That takes hours, and no job waits for them: it ends, and the next call goes on with it, as a cron
job's does. What came of the shadow is recorded in `job.json` before the shadow is ended, so that a
kill in between changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from models.monitoring.shadow_rule import ShadowRule
from models.monitoring.verdict import reason
from models.registry import shadowing, store
from training.redeploy.job_state import JobState
from training.reporter import Reporter


@dataclass(frozen=True)
class ShadowOutcome:
    """waits: there is no decision yet. reason: why not, or why it is refused; "": it may go on.
    verdicts: JSON-ready, those of its rule that were decided by."""

    waits: bool
    reason: str
    verdicts: tuple[dict[str, Any], ...] = ()


def begin_shadow(
    job: JobState, version: str, rule: ShadowRule, reporter: Reporter
) -> dict[str, Any]:
    """A step of the job; where it was begun already, by one that was killed, that one counts.

    Raises:
        StoreError: something else is being tried.
    """
    if store.production_version() != job.champion:
        return {"shadow": None}  # `promote` says why the job is given up
    shadow = shadowing.current_shadow()
    if shadow is None or shadow.version != version or shadowing.is_stale(shadow):
        shadow = shadowing.start_shadow(version, rule, f"redeploy job {job.id}")
        reporter.say(f"{shadow.version} goes into the shadow of {shadow.against}")
    return {"shadow": shadow.id}


def shadow_outcome(job: JobState, version: str) -> ShadowOutcome:
    """What the shadow has shown so far, or had when it was decided."""
    if job.has("judge shadow"):
        recorded = job.step("judge shadow", dict)
        _end(job, version)  # a job that was killed may have left it
        return _decided(recorded)
    status = shadowing.shadow_status()
    if status is None or status.shadow.version != version:
        why = "somebody ended its shadow before there was a decision"
        return _decide(job, why, {}) if _is_untouched(job) else ShadowOutcome(False, "")
    if status.is_stale:
        return ShadowOutcome(waits=False, reason="")  # `promote` gives the job up
    if status.outcome == "waiting":
        return ShadowOutcome(waits=True, reason=reason(status.verdicts))
    decided = _decide(job, reason(status.verdicts), status.as_json())
    _end(job, version)
    return decided


def _end(job: JobState, version: str) -> None:
    shadow = shadowing.current_shadow()
    if shadow is not None and shadow.version == version:
        shadowing.stop_shadow(f"redeploy job {job.id} has decided")


def _is_untouched(job: JobState) -> bool:
    return store.production_version() == job.champion


def _decide(job: JobState, refused: str, shown: dict[str, Any]) -> ShadowOutcome:
    return _decided(job.step("judge shadow", lambda: {"refused": refused, "shown": shown}))


def _decided(recorded: dict[str, Any]) -> ShadowOutcome:
    verdicts = tuple(recorded["shown"].get("verdicts", ()))
    return ShadowOutcome(waits=False, reason=recorded["refused"], verdicts=verdicts)
