"""The JSON bodies of `GET /overview` and `POST /rollback`, as pydantic models."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class Promoted(_Part):
    """A line of the history of production."""

    version: str
    at: datetime
    why: str
    replaced: str | None = Field(description="what was served before; null for the first")


class ServedNow(_Part):
    name: str
    version: str
    since: datetime | None = Field(
        description="when it was promoted; null: it isn't what was promoted last"
    )
    classes: int = Field(ge=1)
    device: str
    accuracy: float | None = Field(ge=0, le=1, description="on its held-out images")
    problems: list[str] = Field(description="what keeps what was promoted from being served")


class TrafficCounts(_Part):
    """Of all workers of this instance since it started."""

    requests: int = Field(ge=0)
    outcomes: dict[str, int] = Field(description="requests by what came of them")
    accepted: int = Field(ge=0, description="answered images whose answer is to be trusted")
    not_accepted: int = Field(ge=0)
    median_ms: float | None = Field(description="from a request's head to its answer; null: none")
    p99_ms: float | None


class OverviewReply(_Part):
    model: ServedNow
    traffic: TrafficCounts
    history: list[Promoted] = Field(description="the present first")
    rollback_to: str | None = Field(description="the version before; null: there is none")
    drift: bool = Field(description="whether there is `GET /drift`")
    shadow: dict[str, Any] | None = Field(description="as `vgg19 shadow --json`; null: none runs")
    canary: dict[str, Any] | None = Field(description="as `vgg19 canary --json`; null: none runs")
    administered: bool = Field(
        description="whether an admin key is set, which rolls back, and sees images on which "
        "production and its shadow differ"
    )
    reviews: bool = Field(
        description="whether whoever asks may open `/review/`, and it is there: where API "
        "keys are asked for, only the admin key's owner is told so"
    )


class DifferingImage(_Part):
    """`png`: base64, at most 112 pixels wide. `difference`: of the probabilities, 0..1."""

    png: str
    difference: float
    production: str
    candidate: str
    production_confidence: float
    candidate_confidence: float


class DifferingReply(_Part):
    images: list[DifferingImage] = Field(description="the most different first; 24 at most")


class RollbackRequest(BaseModel):
    version: str = Field(
        max_length=100,
        description="that is in production; where it no longer is, nothing is changed",
    )


class RollbackReply(_Part):
    version: str = Field(description="that production is now; services load it within seconds")
