"""Whether a canary does worse than production: four shares, with margins, by sequential tests.

failed      requests without an answer, but those that any model would refuse
slow        requests whose run took longer than 9 of 10 of production's first ones did, of those
            that had the worker to themselves
refused     answers that aren't accepted (`accepted` in the answer)
unfamiliar  answers whose distance is above the limit: images unlike the training images

Each worker tests what it has seen itself and writes its evidence down; the workers' requests are
different ones, so their e-values are multiplied.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from models.monitoring.two_sample import Stream, TwoSample

Kind = Literal["failed", "slow", "refused", "unfamiliar"]
Side = Literal["production", "canary"]
KINDS: tuple[Kind, ...] = get_args(Kind)


class CanaryLimits(BaseModel):
    """How much larger each share may be in the canary than in production; null: any.

    alpha: the chance that a canary that keeps all limits is ever taken back.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    failed: float | None = Field(default=0.01, ge=0, lt=1)
    slow: float | None = Field(default=0.15, ge=0, lt=1)
    refused: float | None = Field(default=0.05, ge=0, lt=1)
    unfamiliar: float | None = Field(default=0.05, ge=0, lt=1)
    alpha: float = Field(default=0.01, gt=0, lt=1)

    def margins(self) -> dict[Kind, float]:
        """Of what is tested."""
        found = {kind: getattr(self, kind) for kind in KINDS}
        return {kind: margin for kind, margin in found.items() if margin is not None}

    @property
    def threshold(self) -> float:
        """Of a log e-value. Bonferroni: any of the tests takes the canary back."""
        return math.log(max(len(self.margins()), 1) / self.alpha)


class Block(BaseModel):
    """Outcomes of both since the last look."""

    production: dict[Kind, Stream] = Field(default_factory=dict)
    canary: dict[Kind, Stream] = Field(default_factory=dict)

    def count(self, side: Side, kind: Kind, *, hit: bool) -> None:
        stream = getattr(self, side).setdefault(kind, Stream())
        stream.count += 1
        stream.hits += hit


class CanaryTally(BaseModel):
    """One worker's. reason: why it doesn't send requests to the canary, if it doesn't. requests,
    production_requests: that the canary and production have answered."""

    worker: str
    state: Literal["loading", "running", "failed", "ended"] = "loading"
    reason: str = ""
    tests: dict[Kind, TwoSample] = Field(default_factory=dict)
    requests: int = 0
    production_requests: int = 0

    @classmethod
    def of(cls, worker: str, limits: CanaryLimits) -> CanaryTally:
        tests = {kind: TwoSample(margin=margin) for kind, margin in limits.margins().items()}
        return cls(worker=worker, tests=tests)

    def count_answer(self, side: Side) -> None:
        self.requests += side == "canary"
        self.production_requests += side == "production"

    def add(self, block: Block) -> None:
        for kind, test in self.tests.items():
            test.add(block.production.get(kind, Stream()), block.canary.get(kind, Stream()))


class Evidence(BaseModel):
    """Of one kind, over all workers. log_e: see `TwoSample`; shares None: nothing was counted."""

    kind: Kind
    margin: float
    production: Stream
    canary: Stream
    log_e: float

    def told(self) -> str:
        """For people."""
        shares = " against ".join(
            f"{stream.hits} of {stream.count}" for stream in (self.canary, self.production)
        )
        return f"{self.kind}: {shares} in production, e-value {math.exp(min(self.log_e, 700)):.3g}"


def evidence(tallies: Sequence[CanaryTally], limits: CanaryLimits) -> list[Evidence]:
    """What all workers have seen together."""
    found = []
    for kind, margin in limits.margins().items():
        tests = [tally.tests[kind] for tally in tallies if kind in tally.tests]
        found.append(
            Evidence(
                kind=kind,
                margin=margin,
                production=_sum([test.a for test in tests]),
                canary=_sum([test.b for test in tests]),
                log_e=sum(test.log_e for test in tests),
            )
        )
    return found


def harm(tallies: Sequence[CanaryTally], limits: CanaryLimits) -> str:
    """What the canary is to be taken back for, in one line; "": nothing."""
    found = [one for one in evidence(tallies, limits) if one.log_e >= limits.threshold]
    return "; ".join(one.told() for one in found)


def _sum(streams: Sequence[Stream]) -> Stream:
    return Stream(
        count=sum(stream.count for stream in streams), hits=sum(stream.hits for stream in streams)
    )
