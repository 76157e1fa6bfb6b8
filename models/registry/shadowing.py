"""Put a version into production's shadow, look at what it has shown, and end that."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.errors import StoreError
from models.monitoring.comparison import Comparison
from models.monitoring.shadow_rule import ShadowRule
from models.monitoring.verdict import Verdict, reason
from models.registry import store
from models.registry.rollouts import Rollout, Rollouts, Shadow, runs_already
from models.registry.tallies import ShadowTally, read_tallies, remove_tallies, total


@dataclass(frozen=True)
class ShadowStatus:
    """What a shadow has shown so far. `tallies`: of each worker that has counted."""

    shadow: Shadow
    tallies: list[ShadowTally]
    seen: Comparison
    verdicts: list[Verdict]
    outcome: str

    @property
    def is_stale(self) -> bool:
        """Whether production isn't any more what the shadow is compared with."""
        return is_stale(self.shadow)

    def as_json(self) -> dict[str, Any]:
        """All of it, for machines."""
        return {
            "shadow": self.shadow.model_dump(mode="json"),
            "outcome": self.outcome,
            "stale": self.is_stale,
            "agreement": self.seen.agreement,
            "agreement_interval_95": self.seen.agreement_interval(),
            "latency_ratio": self.seen.latency_ratio,
            "verdicts": [verdict.as_json() for verdict in self.verdicts],
            "seen": self.seen.model_dump(mode="json"),
            "workers": [
                tally.model_dump(mode="json", include={"worker", "state", "reason"})
                for tally in self.tallies
            ],
        }


def directory() -> Path:
    """Where the store keeps what is tried beside production."""
    return store.store_path() / store.MODEL_NAME


def rollouts() -> Rollouts:
    return Rollouts(directory())


def is_stale(rollout: Rollout) -> bool:
    """Whether production became another version since a rollout began: it is over then, also where
    that version is the candidate."""
    return store.production_version_or_none() != rollout.against


def start_shadow(reference: str, rule: ShadowRule, why: str = "begun by hand") -> Shadow:
    """Have the services answer with a version beside production, for nobody but us.

    A shadow or a canary that production has left behind is ended first.

    Raises:
        StoreError: nothing of that name, nothing is in production, it is in production itself, or
            something else is being tried.
        BundleError: its files don't match its manifest.
    """
    version, against = store.resolve(reference), store.resolve(store.PRODUCTION)
    if version == against:
        raise StoreError(f"{store.MODEL_NAME}:{version} is in production; name another version")
    store.open_stored(version)
    shadow = Shadow(version=version, against=against, rule=rule)
    end_if_stale()
    rollouts().begin(shadow, why)
    remove_tallies(directory(), shadow.id)
    return shadow


def check_place() -> None:
    """Of a shadow that is to begin later, after a training say.

    Raises:
        StoreError: something else is being tried.
    """
    current = rollouts().current()
    if current is not None and not is_stale(current):
        raise StoreError(runs_already(current))


def current_shadow() -> Shadow | None:
    """The one that runs, stale or not; None: none does."""
    current = rollouts().current()
    return current if isinstance(current, Shadow) else None


def stop_shadow(why: str = "stopped by hand") -> Shadow | None:
    """End it; None: there was none. Repairs a damaged file."""
    try:
        shadow = current_shadow()
    except StoreError:
        rollouts().reset()
        return None
    if shadow is not None:
        rollouts().end(shadow, "stopped", why)
    return shadow


def end_if_stale() -> None:
    """End what production has left behind."""
    current = rollouts().current()
    if current is not None and is_stale(current):
        production = store.production_version_or_none()
        promoted = production == current.version
        what = "promoted" if promoted else "overtaken"
        rollouts().end(current, what, f"production became {production}")


def shadow_status() -> ShadowStatus | None:
    """None: no shadow runs."""
    shadow = current_shadow()
    if shadow is None:
        return None
    tallies = read_tallies(directory(), shadow.id, ShadowTally)
    seen, hours = total(tallies), shadow.age_hours
    disabled = sum(tally.state == "failed" for tally in tallies)
    verdicts = shadow.rule.judge(seen, hours, disabled)
    outcome = shadow.rule.outcome(seen, hours, disabled)
    return ShadowStatus(shadow, tallies, seen, verdicts, outcome)


def refusal(version: str) -> str:
    """Why a version must not be promoted yet, by the rule of its shadow; "" if nothing is said
    against it, or it is in nobody's shadow."""
    status = shadow_status()
    if status is None or status.shadow.version != version or status.is_stale:
        return ""
    return reason(status.verdicts)
