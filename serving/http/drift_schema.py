"""The JSON body of `GET /drift`, as pydantic models; docs/drift.md says how to read it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class DriftComparison(_Part):
    """The images of a window beside the reference."""

    images: int = Field(ge=1)
    psi: float = Field(ge=0, description="population stability index")
    psi_noise: float = Field(ge=0, description="its mean if nothing had changed")
    jensen_shannon: float = Field(ge=0, le=1, description="Jensen-Shannon distance, base 2")


class DriftWindows(_Part):
    recent: DriftComparison | None = Field(description="the last VGG19_DRIFT_WINDOW images")
    day: DriftComparison | None = Field(description="the last 24 hours")


class DriftGroup(_Part):
    """Bins of the histogram, and the share of images that are in them; null: there are none."""

    name: str
    reference: float | None = Field(ge=0, le=1)
    recent: float | None = Field(ge=0, le=1)
    day: float | None = Field(ge=0, le=1)


class DriftFeature(_Part):
    name: str
    title: str
    ordered: bool = Field(description="whether its groups have an order")
    raises_alarm: bool = Field(description="whether VGG19_DRIFT_FEATURES has it")
    alarm_at: float | None = Field(description="seconds since 1970")
    evidence: float = Field(ge=0, description="an e-value against no change")
    most_evidence: float = Field(ge=0, description="the most it has been since it began")
    needed_evidence: float = Field(gt=0, description="from which on there is an alarm")
    p_value: float = Field(
        ge=0, le=1, description="of no change, over all features and at all times"
    )
    images_tested: int = Field(ge=0)
    windows: DriftWindows
    groups: list[DriftGroup]


class DriftAlarm(_Part):
    at: float = Field(description="of the first one, in seconds since 1970")
    features: list[str]


class DriftCounts(_Part):
    recent: int = Field(ge=0)
    day: int = Field(ge=0)


class DriftAccepted(_Part):
    """Share of answers that are accepted; null: there are none."""

    reference: float | None = Field(ge=0, le=1)
    recent: float | None = Field(ge=0, le=1)
    day: float | None = Field(ge=0, le=1)


class DriftHistory(_Part):
    """A value for each hour of the last week; null: nothing is known of it."""

    hours: list[int] = Field(description="when they began, in seconds since 1970")
    images: list[float | None] = Field(description="in the window of recent images, at its end")
    psi: dict[str, list[float | None]] = Field(description="by feature, of that window")


class Drift(_Part):
    """What all workers know together; times are in seconds since 1970."""

    since: float | None
    updated: float
    images: int = Field(ge=0, description="counted since it began")
    reference_images: int = Field(ge=1)
    windows: DriftCounts = Field(description="images in each window")
    false_alarm_rate: float = Field(gt=0, lt=1)
    alarm: DriftAlarm | None
    accepted: DriftAccepted
    features: list[DriftFeature]
    history: DriftHistory


class DriftReply(_Part):
    model_version: str
    watched: bool = Field(description="false: the model has no reference")
    reason: str | None = Field(description="why it isn't watched")
    drift: Drift | None = Field(description="null: nothing is known yet")
