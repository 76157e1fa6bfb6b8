from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from models.network.vgg19 import VGG19
from tests.training.probe.test_recommend import scores
from training.auto.ladder import plan
from training.auto.record import Depth, Record, Stage, Wanted
from training.probe.recommend import recommend

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


WORSE = (-0.1, -0.18, -0.02)


@pytest.mark.parametrize(
    ("gained", "preferred", "chosen"),
    [
        (DOES_NOT, 1, 1),
        (TOO_FEW, 1, 1),
        (WORSE, 1, 0),
        (DOES_NOT, 2, 0),  # it is another rung that the probe prefers
        (DOES_NOT, None, 0),
    ],
)
def test_what_the_probe_surely_prefers_is_kept_unless_validation_says_that_it_is_worse(
    gained: Any, preferred: int | None, chosen: int
) -> None:
    tried = record(FC, stage("more", 0.80, 0.31, gained))
    decided = tried.model_copy(update={"preferred": preferred}).decided()
    assert decided.chosen == chosen
    said = (
        "the probe surely prefers it to fc, and 50 validation images can't tell them apart: error"
    )
    assert decided.why.startswith(said) == (chosen == 1)


@pytest.mark.parametrize(
    ("weights", "accuracies", "surely", "preferred"),
    [
        ("imagenet", [0.6, 0.7, 0.8, 0.7, 0.6, 0.6, 0.6], True, 1),
        ("imagenet", [0.6, 0.7, 0.802, 0.8, 0.799, 0.7, 0.6], False, None),
        ("imagenet", [0.6] * 4 + [0.8, 0.6, 0.6], False, None),  # fc itself
        ("imagenet", [0.6] * 6 + [0.8], True, None),  # the head alone, which comes first
        ("none", [0.6, 0.7, 0.8, 0.7, 0.6, 0.6, 0.6], False, None),
    ],
)
def test_a_probe_is_sure_where_its_images_tell_the_depth_from_that_below_fc(
    weights: str, accuracies: list[float], surely: bool, preferred: int | None
) -> None:
    judged = scores(accuracies)
    recommended = recommend(judged, 0.1, weights, VGG19)
    assert recommended.surely == surely
    probe: Any = SimpleNamespace(scores=judged, recommendation=recommended, suspects=[])
    assert Record.begin(probe, plan(VGG19, recommended, weights)).preferred == preferred


def test_what_the_probe_does_better_was_trained_too_short() -> None:
    decided = record(stage("fc", 0.7, 0.4), stage("more", 0.75, 0.35, DOES_NOT)).decided()
    said = "75.0% right is less than the 90.0% of the probe's linear classifier at block 3"
    assert said in decided.why


def test_written_and_read_it_is_the_same() -> None:
    whole = record(FC, stage("more", 0.9, 0.2, TOO_FEW)).decided()
    assert Record.read(whole.model_dump(mode="json")) == whole
