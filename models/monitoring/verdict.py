"""One rule's verdict, for everything that decides about a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Verdict:
    """One rule's: what was measured, what the limit is, and whether it holds."""

    rule: str
    measured: str
    limit: str
    passed: bool

    @classmethod
    def at_least(cls, rule: str, value: float, limit: float, form: str) -> Verdict:
        """`form`: how both are written, as for `str.format`."""
        return cls(rule, form.format(value), f"{form.format(limit)} or more", value >= limit)

    @classmethod
    def at_most(cls, rule: str, value: float, limit: float, form: str) -> Verdict:
        """As `at_least`."""
        return cls(rule, form.format(value), f"{form.format(limit)} or less", value <= limit)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def reason(verdicts: Sequence[Verdict]) -> str:
    """Why a model is refused, in one line; "" if it isn't."""
    failed = [f"{v.rule}: {v.measured}, must be {v.limit}" for v in verdicts if not v.passed]
    return "; ".join(failed)
