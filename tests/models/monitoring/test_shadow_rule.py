from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from models.monitoring.comparison import Comparison
from models.monitoring.shadow_rule import ShadowRule
from models.monitoring.verdict import reason


def seen(images: int = 2000, agreed: int = 1900, slower: float = 1.0) -> Comparison:
    comparison = Comparison(images=images, agreed=agreed)
    comparison.production.alone.add(0.1)
    comparison.candidate.alone.add(0.1 * slower)
    return comparison


def lying() -> Comparison:
    comparison = seen()
    comparison.failures["invalid"] = 10
    return comparison


def worse() -> Comparison:
    comparison = seen()
    comparison.labelled.production, comparison.labelled.both = 10, 90
    return comparison


@pytest.mark.parametrize(
    ("comparison", "hours", "outcome", "why"),
    [
        (seen(), 24, "passed", ""),
        (seen(), 23.9, "waiting", "hours in the shadow: 23.9"),
        (seen(1999, 1999), 30, "waiting", "images in the shadow: 1999"),
        (seen(1999, 1999), 168, "refused", "images in the shadow: 1999, must be 2000 or more"),
        (seen(agreed=1500), 24, "refused", "agreement: 0.750, must be 0.800 or more"),
        (seen(slower=1.4), 24, "refused", "latency ratio in the shadow: 1.4"),
        (lying(), 24, "refused", "images not answered: 0.0050, must be 0.0010 or less"),
        (worse(), 24, "refused", "accuracy difference on 100 images with feedback: -0.100"),
        (Comparison(images=3000, agreed=3000), 24, "waiting", "not measured yet"),
        (Comparison(images=3000, agreed=3000), 168, "refused", "not measured yet"),
        (Comparison(), 1, "waiting", "agreement: not measured yet"),
    ],
)
def test_the_rule(comparison: Comparison, hours: float, outcome: str, why: str) -> None:
    rule = ShadowRule()
    assert rule.outcome(comparison, hours) == outcome
    assert why in reason(rule.judge(comparison, hours))


@pytest.mark.parametrize(("images", "hours"), [(2000, 24), (3, 0.1)])
def test_one_that_a_worker_disabled_is_refused_at_once(images: int, hours: float) -> None:
    rule = ShadowRule()
    assert rule.outcome(seen(images, images), hours, disabled=1) == "refused"
    why = reason(rule.judge(seen(images, images), hours, disabled=1))
    assert "workers that disabled it: 1, must be 0 or less" in why
    off = ShadowRule(max_failed=None)
    assert off.outcome(seen(), 24, disabled=1) == "passed"


def test_a_rule_that_is_off_says_nothing() -> None:
    rule = ShadowRule(
        min_agreement=None, max_latency_ratio=None, max_failed=None, min_accuracy_difference=None
    )
    assert len(rule.judge(Comparison(), 1)) == 2


def test_hours_that_contradict_each_other() -> None:
    with pytest.raises(ValidationError, match=r"max_hours is 10, it must be min_hours \(24\)"):
        ShadowRule(max_hours=10)


def test_the_page_lists_every_key() -> None:
    page = (Path(__file__).parents[3] / "docs" / "rollout.md").read_text()
    for name, field in ShadowRule.model_fields.items():
        assert f"| `{name}` | `{field.default}` | {field.description} |" in page
