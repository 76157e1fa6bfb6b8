from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from models.monitoring.verdict import Verdict, reason
from training.redeploy.compare import Comparison, Judged
from training.redeploy.gate import GateConfig, judge


def judged(accuracy: float, recall: dict[str, float], calibration_error: float) -> Judged:
    answers = (np.zeros(1, np.int64), np.ones(1, np.bool_), np.ones(1))
    return Judged(("a",), *answers, accuracy, recall, calibration_error)


OLD = judged(0.80, {"a": 0.9, "b": 0.7, "rare": 1.0}, 0.05)
NEW = judged(0.85, {"a": 0.9, "b": 0.8, "rare": 0.0}, 0.06)
GOOD = Comparison(
    images=200,
    labels=["a", "b", "rare"],
    support={"a": 99, "b": 99, "rare": 2},
    champion=OLD,
    challenger=NEW,
    difference=0.05,
    interval=(0.01, 0.09),
    p_value=0.02,
    previous_holdout=120,
    known_difference=0.0,
    known_p_value=1.0,
    latency_ms={"champion": 10.0, "challenger": 11.0},
    size_bytes={"champion": 100, "challenger": 100},
)


def verdicts_of(
    comparison: Comparison = GOOD,
    lost: list[str] | None = None,
    parity: float = 1e-6,
    **limits: float | None,
) -> dict[str, Verdict]:
    config = GateConfig.model_validate(limits)
    verdicts = judge(comparison, config, parity_difference=parity, lost_classes=lost or [])
    return {verdict.rule: verdict for verdict in verdicts}


def failed(*arguments: object, **options: object) -> list[str]:
    verdicts = verdicts_of(*arguments, **options)  # type: ignore[arg-type]
    return [rule for rule, verdict in verdicts.items() if not verdict.passed]


def test_a_better_challenger_passes_every_rule() -> None:
    verdicts = verdicts_of()
    assert all(verdict.passed for verdict in verdicts.values())
    assert set(verdicts) == {
        "held-out images", "calibration error",
        "accuracy beside always answering the largest class", "ONNX against PyTorch",
        "accuracy difference",
        "interval of the difference", "McNemar's exact test", "classes lost",
        "difference on the 120 images of the previous holdout",
        "largest drop of a class", "latency ratio", "size ratio",
    }  # fmt: skip
    assert verdicts["accuracy difference"].measured == "+0.050"
    assert verdicts["largest drop of a class"].measured == "0.000 (a)"  # rare has too few images
    assert reason(list(verdicts.values())) == ""


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"images": 49}, "held-out images"),
        ({"difference": -0.001, "p_value": 1.0}, "accuracy difference"),
        ({"interval": (-0.06, 0.2)}, "interval of the difference"),
        ({"latency_ms": {"champion": 10.0, "challenger": 12.6}}, "latency ratio"),
        (
            {"known_difference": -0.03, "known_p_value": 0.01},
            "difference on the 120 images of the previous holdout",
        ),
        ({"size_bytes": {"champion": 100, "challenger": 126}}, "size ratio"),
        ({"challenger": replace(NEW, calibration_error=0.11)}, "calibration error"),
        (
            {"challenger": replace(NEW, accuracy=0.495)},  # 99 of 200 have the largest class
            "accuracy beside always answering the largest class",
        ),
        ({"challenger": replace(NEW, recall=NEW.recall | {"b": 0.59})}, "largest drop of a class"),
    ],
)
def test_each_rule_refuses(change: dict[str, object], rule: str) -> None:
    assert failed(replace(GOOD, **change)) == [rule]  # type: ignore[arg-type]


def test_fewer_right_by_more_than_luck_is_refused_even_if_a_drop_is_allowed() -> None:
    worse = replace(GOOD, difference=-0.02, interval=(-0.04, 0.0), p_value=0.01)
    assert failed(worse, min_difference=-0.05) == ["McNemar's exact test"]
    assert failed(replace(worse, p_value=0.3), min_difference=-0.05) == []


def test_on_a_small_previous_holdout_a_drop_may_be_luck() -> None:
    drop = replace(GOOD, known_difference=-0.03, known_p_value=0.5)
    assert failed(drop) == []
    assert failed(drop, significance=None) == [
        "difference on the 120 images of the previous holdout"
    ]


def test_parity_and_lost_classes() -> None:
    assert failed(parity=2e-4) == ["ONNX against PyTorch"]
    assert failed(lost=["rare"]) == ["classes lost"]
    assert failed(lost=["rare"], keep_classes=False) == []


def test_a_rule_can_be_switched_off_and_a_floor_set() -> None:
    assert "latency ratio" not in verdicts_of(max_latency_ratio=None)
    assert failed(min_accuracy=0.9) == ["accuracy"]
    useless = replace(GOOD, challenger=replace(NEW, accuracy=0.4))
    assert failed(useless, better_than_largest_class=False) == []
    assert failed(min_class_images=2) == ["largest drop of a class"]
    assert failed(min_class_images=1000) == []


def test_without_a_champion_only_the_challenger_is_judged() -> None:
    nothing = dict.fromkeys(("champion", "difference", "interval", "p_value", "known_difference"))
    alone = {"latency_ms": {"challenger": 1.0}, "size_bytes": {"challenger": 1}}
    first = replace(GOOD, **nothing, **alone)  # type: ignore[arg-type]
    assert set(verdicts_of(first)) == {
        "held-out images", "calibration error",
        "accuracy beside always answering the largest class", "ONNX against PyTorch",
    }  # fmt: skip


def test_the_reason_names_rule_number_and_limit() -> None:
    verdicts = verdicts_of(replace(GOOD, difference=-0.1, p_value=1.0, images=10))
    assert reason(list(verdicts.values())) == (
        "held-out images: 10, must be 50 or more; "
        "accuracy difference: -0.100, must be +0.000 or more"
    )
