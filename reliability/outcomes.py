"""What became of the trials of a fault: a line for each, a line over all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

FAILED = "failed"


class BrokenPromiseError(Exception):
    """Something was not as it is promised to be after a fault."""


@dataclass(frozen=True)
class Outcome:
    """Of one trial. `what`: how it ended, FAILED where a promise was broken; `how`: in words."""

    what: str
    how: str


def report(name: str, outcomes: Iterable[Outcome]) -> bool:
    """Print the trials as they come, then their counts; whether every promise was kept."""
    counts: Counter[str] = Counter()
    for number, outcome in enumerate(outcomes, 1):
        counts[outcome.what] += 1
        print(f"{name} {number}: {outcome.what}; {outcome.how}", flush=True)
    counts.setdefault(FAILED, 0)
    summary = ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))
    print(f"{name}: {counts.total()} tried, {summary}", flush=True)
    return counts[FAILED] == 0
