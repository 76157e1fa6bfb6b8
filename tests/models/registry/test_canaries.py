"""Canaries in a real store, without a service."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from models.errors import StoreError
from models.monitoring.comparison import Comparison, Opinion
from models.monitoring.shadow_rule import ShadowRule
from models.registry import canaries, shadowing, store
from models.registry.canaries import CanaryError
from models.registry.rollouts import MAX_STEPS, Canary
from models.registry.tallies import ShadowTally, write_tally
from testing.bundles import write_tiny_bundle


@pytest.fixture
def versions(store_home: Path, tmp_path: Path) -> list[str]:
    """Three, of which the first is in production."""
    found = []
    for day in (1, 2, 3):
        bundle = write_tiny_bundle(tmp_path / str(day), f"2026-01-0{day}T00:00:00+00:00")
        found.append(store.register(bundle).rpartition(":")[2])
    store.promote(found[0])
    return found


def begin(version: str, **changes: Any) -> Canary:
    wanted: dict[str, Any] = {"steps": [5.0, 100.0], "wait_hours": 0.0, "min_requests": 0} | changes
    return canaries.start_canary(version, **wanted)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"wait_hours": float("inf")}, "wait_hours is inf: "),
        ({"wait_hours": float("nan")}, "wait_hours is nan: "),
        ({"wait_hours": -1.0}, "wait_hours is -1.0: "),
        ({"min_requests": -1}, "min_requests is -1: "),
        ({"steps": [step / 10 for step in range(1, MAX_STEPS + 2)]}, "steps is (0.1, 0.2, "),
        ({"steps": [5.0, 5.0]}, "the steps are 5,5; they must rise"),
        ({"steps": [float("nan")]}, "the steps are nan; "),
        ({"steps": []}, "the steps are none; "),
        ({"header": "X-User\n"}, "is no name of a header"),
    ],
)
def test_what_cannot_be_begun_leaves_the_store_as_it_was(
    versions: list[str], changes: dict[str, Any], why: str
) -> None:
    with pytest.raises(CanaryError, match=re.escape(why)):
        begin(versions[1], **changes)
    assert shadowing.rollouts().current() is None  # and it can be read
    begin(versions[1], steps=[step / 10 for step in range(1, MAX_STEPS + 1)])
    assert canaries.current_canary() is not None


def test_a_canary_that_cannot_be_begun_ends_no_shadow(versions: list[str]) -> None:
    rule = ShadowRule(min_images=1, min_hours=0, min_agreement=None, max_latency_ratio=None)
    shadow = shadowing.start_shadow(versions[1], rule)
    counts = Comparison()
    counts.add(Opinion("red", 0.9, True), Opinion("red", 0.9, True))
    tally = ShadowTally(worker="w", comparison=counts)
    write_tally(shadowing.directory(), shadow.id, "w", tally.model_dump_json())
    with pytest.raises(CanaryError, match="the first step is 100; that is 'vgg19 promote'"):
        begin(versions[1], steps=[100.0])
    assert shadowing.current_shadow() == shadow
    begin(versions[1])
    whats = [event.what for event in shadowing.rollouts().events()]
    assert whats == ["begun", "passed", "begun"]


def test_what_was_promoted_meanwhile_is_not_replaced(versions: list[str]) -> None:
    """By a canary that was due, in a worker that hasn't seen the promotion yet."""
    canary = begin(versions[1], steps=[5.0, 100.0])
    store.promote(versions[2])
    assert canaries.decide(canary) == ""
    with pytest.raises(StoreError, match=f"production is {versions[2]}, and {versions[1]} was to"):
        store.promote(versions[1], instead_of=versions[0])
    assert store.production_version() == versions[2]


def test_one_that_cannot_be_promoted_is_taken_back(versions: list[str]) -> None:
    canary = begin(versions[1])
    (store.stored_path(versions[1]) / "model.onnx").write_bytes(b"damaged")
    assert "it can't be promoted: " in canaries.decide(canary)
    assert canaries.current_canary() is None
    assert store.production_version() == versions[0]
