"""What strategy auto has tried and found, `auto.json` in its run: it goes on from there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from models.network.unfreezing import Strategy
from training.auto.judge import Gain, pays, undecided
from training.auto.ladder import Rung
from training.loop.run import write_json
from training.probe.probe import Probe


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Depth(_Part):
    """Of the probe, see `models.linear.predictions.Predictions`."""

    name: str
    error: float
    accuracy: float
    interval: tuple[float, float]


class Wanted(_Part):
    """A rung of the ladder."""

    name: str
    strategy: Strategy
    unfreeze: tuple[str, ...]


class Stage(Wanted):
    """A rung that was tried.

    Args:
        val_error: mean squared error of the probabilities of `val_images` images.
        gain: by how much that is lower than before; None for the first.
        seconds: of the process that ended it.
    """

    best_epoch: int
    epochs: int
    val_images: int
    val_accuracy: float
    val_error: float
    gain: Gain | None
    seconds: float

    @property
    def pays(self) -> bool:
        return self.gain is None or pays(self.gain)


class Record(_Part):
    """Args:
    advice: the probe's recommendation. suspects: how many labels it doubts.
    plan: what would be tried if all of it paid.
    preferred: number of the rung which the probe's errors tell from the one before it.
    chosen: number of the stage that became the run, once that is known, and `why` it ended.
    """

    depths: tuple[Depth, ...]
    advice: str
    suspects: int
    plan: tuple[Wanted, ...]
    preferred: int | None = None
    stages: tuple[Stage, ...] = ()
    chosen: int | None = None
    why: str = ""

    @classmethod
    def begin(cls, probe: Probe, rungs: tuple[Rung, ...]) -> Record:
        depths = [
            Depth(
                name=score.depth.name,
                error=score.predictions.error,
                accuracy=score.predictions.accuracy,
                interval=score.predictions.interval,
            )
            for score in probe.scores
        ]
        recommended = probe.recommendation
        after_the_first = [
            number
            for number, rung in enumerate(rungs)
            if number and rung.is_recommended(recommended)
        ]
        wanted = [Wanted(name=r.name, strategy=r.strategy, unfreeze=r.unfreeze) for r in rungs]
        return cls(
            depths=tuple(depths),
            advice=recommended.reason,
            suspects=len(probe.suspects),
            plan=tuple(wanted),
            preferred=after_the_first[0] if recommended.surely and after_the_first else None,
        )

    @classmethod
    def read(cls, content: dict[str, Any]) -> Record:
        return cls.model_validate(content)

    def write(self, path: Path) -> None:
        write_json(path, self.model_dump(mode="json"))

    def next(self) -> Wanted | None:
        """What is to be tried; None: it has ended."""
        if self.stages and not self.stages[-1].pays:
            return None
        return self.plan[len(self.stages)] if len(self.stages) < len(self.plan) else None

    def with_stage(self, stage: Stage) -> Record:
        return self.model_copy(update={"stages": (*self.stages, stage)})

    def decided(self) -> Record:
        """With the better one of the last two: the ones before paid less than the last but one.

        Where the validation images can't tell which of them that is, and one is what the probe
        prefers by all training images, that one: ten validation images, all right under `fc` and
        under what the probe preferred, kept `fc`, which was right for 66% of 449 others; the other
        is for 87% (examples/strategies.py).
        """
        numbers = range(len(self.stages))[-2:]
        chosen = max(numbers, key=lambda number: _score(self.stages[number]))
        why = self._why()
        last = numbers[-1]
        gained = self.stages[last].gain
        if last == self.preferred and gained is not None and undecided(gained):
            chosen = last
            why = self._why_preferred()
        why += self._too_short(self.stages[chosen])
        return self.model_copy(update={"chosen": chosen, "why": why})

    def _why(self) -> str:
        last = self.stages[-1]
        if last.pays:
            return "there is nothing more to unfreeze"
        assert last.gain is not None
        return f"{last.name} doesn't pay: {gain_words(last)} on {last.val_images} validation images"

    def _why_preferred(self) -> str:
        last, before = self.stages[-1], self.stages[-2]
        return (
            f"the probe surely prefers it to {before.name}, and {last.val_images} validation "
            f"images can't tell them apart: {gain_words(last)}"
        )

    def _too_short(self, chosen: Stage) -> str:
        """What the probe's classifier makes of the same features, training can learn as well."""
        best = min(self.depths, key=lambda depth: depth.error)
        if chosen.val_accuracy >= best.interval[0]:
            return ""
        return (
            f"; but {chosen.val_accuracy:.1%} right is less than the {best.accuracy:.1%} of the "
            f"probe's linear classifier at {best.name}, so train longer (--epochs) or faster "
            "(--learning-rate)"
        )


def gain_words(stage: Stage) -> str:
    """Of the error; empty for the first stage."""
    if stage.gain is None:
        return ""
    error, low, high = stage.gain
    if low is None or high is None:
        return f"error lower by {error:.3f}"
    return f"error lower by {error:.3f} (95%: {low:.3f} to {high:.3f})"


def _score(stage: Stage) -> tuple[float, float]:
    return (stage.val_accuracy, -stage.val_error)
