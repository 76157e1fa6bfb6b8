"""What a candidate must have shown in production's shadow before it is promoted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.monitoring.comparison import Comparison
from models.monitoring.verdict import Verdict

_NOT_MEASURED = "not measured yet"


class ShadowRule(BaseModel):
    """Limits; null switches one off."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    min_images: int = Field(default=2000, ge=1, description="that both have answered")
    min_hours: float = Field(
        default=24.0, ge=0, le=8760, description="since the shadow began: days have their hours"
    )
    max_hours: float = Field(
        default=168.0,
        gt=0,
        le=8760,
        description="after which it is refused for want of images or times",
    )
    min_agreement: float | None = Field(
        default=0.8, ge=0, le=1, description="share of images with the same label from both"
    )
    max_latency_ratio: float | None = Field(
        default=1.25,
        gt=0,
        description="of the median times of an image, in batches of the same size with nothing "
        "beside them",
    )
    max_failed: float | None = Field(
        default=0.001, ge=0, le=1, description="share of images that the candidate didn't answer"
    )
    min_accuracy_difference: float | None = Field(
        default=-0.02,
        ge=-1,
        le=1,
        description="candidate minus production, where feedback brought the labels; silent without",
    )
    min_labelled: int = Field(
        default=50, ge=1, description="images with labels that min_accuracy_difference needs"
    )

    @model_validator(mode="after")
    def _hours(self) -> ShadowRule:
        if self.max_hours < self.min_hours:
            raise ValueError(
                f"max_hours is {self.max_hours:g}, it must be min_hours ({self.min_hours:g}) or "
                "more"
            )
        return self

    def judge(self, seen: Comparison, hours: float, disabled: int = 0) -> list[Verdict]:
        """The verdict of everything that is on. What couldn't be measured doesn't hold.

        Args:
            seen: summed over all workers. hours: since the shadow began.
            disabled: in how many workers it couldn't be loaded, crashed, hung or kept failing; what
                it didn't answer there since is in no count.
        """
        return [
            Verdict.at_least("images in the shadow", seen.images, self.min_images, "{:d}"),
            Verdict.at_least("hours in the shadow", hours, self.min_hours, "{:.1f}"),
            *self._about_answers(seen),
            *self._about_workers(disabled),
            *self._about_labels(seen),
        ]

    def outcome(
        self, seen: Comparison, hours: float, disabled: int = 0
    ) -> Literal["passed", "refused", "waiting"]:
        """Whether there is a decision yet: when images and hours suffice and all is measured, or
        time is up, or a worker has disabled it. On a busy service it takes a while until a time was
        measured alone."""
        verdicts = self.judge(seen, hours, disabled)
        if all(verdict.passed for verdict in verdicts):
            return "passed"
        measured = all(verdict.measured != _NOT_MEASURED for verdict in verdicts)
        enough = measured and seen.images >= self.min_images and hours >= self.min_hours
        over = hours >= self.max_hours or any(self._about_workers(disabled))
        return "refused" if enough or over else "waiting"

    def _about_answers(self, seen: Comparison) -> Iterator[Verdict]:
        if (least := self.min_agreement) is not None:
            yield _measured("agreement", seen.agreement, least, "{:.3f}", at_least=True)
        if (most := self.max_latency_ratio) is not None:
            name = "latency ratio in the shadow"
            yield _measured(name, seen.latency_ratio, most, "{:.2f}", at_least=False)
        if (most := self.max_failed) is not None:
            tried = seen.images + seen.failed
            share = seen.failed / tried if tried else None
            yield _measured("images not answered", share, most, "{:.4f}", at_least=False)

    def _about_workers(self, disabled: int) -> Iterator[Verdict]:
        if self.max_failed is not None and disabled:
            yield Verdict.at_most("workers that disabled it", disabled, 0, "{:d}")

    def _about_labels(self, seen: Comparison) -> Iterator[Verdict]:
        least, difference = self.min_accuracy_difference, seen.labelled.difference
        if least is None or difference is None or seen.labelled.images < self.min_labelled:
            return
        name = f"accuracy difference on {seen.labelled.images} images with feedback"
        yield Verdict.at_least(name, difference, least, "{:+.3f}")


def _measured(
    rule: str, value: float | None, limit: float, form: str, *, at_least: bool
) -> Verdict:
    if value is not None:
        return (Verdict.at_least if at_least else Verdict.at_most)(rule, value, limit, form)
    words = f"{form.format(limit)} or {'more' if at_least else 'less'}"
    return Verdict(rule, _NOT_MEASURED, words, passed=False)
