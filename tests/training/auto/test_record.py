from __future__ import annotations

from typing import Any

import pytest

from training.auto.record import Depth, Record, Stage, Wanted

PLAN = tuple(Wanted(name=name, strategy="fc", unfreeze=()) for name in ("fc", "more", "most"))


def stage(name: str, accuracy: float, error: float, gain: Any = None) -> Stage:
    return Stage(
        name=name, strategy="fc", unfreeze=(), best_epoch=1, epochs=2, val_images=50,
        val_accuracy=accuracy, val_error=error, gain=gain, seconds=1,
    )  # fmt: skip


def record(*stages: Stage) -> Record:
    depth = Depth(name="block 3", error=0.2, accuracy=0.9, interval=(0.8, 0.95))
    return Record(depths=(depth,), advice="so", suspects=0, plan=PLAN, stages=stages)


FC = stage("fc", 0.81, 0.3)
PAYS, DOES_NOT, TOO_FEW = (0.1, 0.02, 0.18), (0.01, -0.02, 0.04), (0.1, None, None)


@pytest.mark.parametrize(
    ("stages", "wanted"),
    [
        ((), "fc"),
        ((FC,), "more"),
        ((FC, stage("more", 0.9, 0.2, PAYS)), "most"),
        ((FC, stage("more", 0.9, 0.2, DOES_NOT)), None),
        ((FC, stage("more", 0.9, 0.2, TOO_FEW)), None),
        ((FC, stage("more", 0.9, 0.2, PAYS), stage("most", 0.95, 0.1, PAYS)), None),
    ],
)
def test_more_is_tried_as_long_as_it_pays(stages: tuple[Stage, ...], wanted: str | None) -> None:
    found = record(*stages).next()
    assert (found and found.name) == wanted


@pytest.mark.parametrize(
    ("last", "chosen", "why"),
    [
        (stage("more", 0.9, 0.2, PAYS), 1, "there is nothing more to unfreeze"),
        (
            stage("more", 0.82, 0.29, DOES_NOT),
            1,
            "more doesn't pay: error lower by 0.010 (95%: -0.020 ",
        ),
        (stage("more", 0.80, 0.29, DOES_NOT), 0, "more doesn't pay: "),
        (stage("more", 0.81, 0.31, DOES_NOT), 0, "more doesn't pay: "),
    ],
)
def test_the_better_of_the_last_two_is_kept_and_why(last: Stage, chosen: int, why: str) -> None:
    decided = record(FC, last).decided()
    assert decided.chosen == chosen
    assert decided.why.startswith(why)
    assert "train longer" not in decided.why


def test_what_the_probe_does_better_was_trained_too_short() -> None:
    decided = record(stage("fc", 0.7, 0.4), stage("more", 0.75, 0.35, DOES_NOT)).decided()
    said = "75.0% right is less than the 90.0% of the probe's linear classifier at block 3"
    assert said in decided.why


def test_written_and_read_it_is_the_same() -> None:
    whole = record(FC, stage("more", 0.9, 0.2, TOO_FEW)).decided()
    assert Record.read(whole.model_dump(mode="json")) == whole
