from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from training.data.checks import Sample
from training.data.splits import SplitRule, split_by_hash, unit_of

RULE = SplitRule(val_fraction=0.2, test_fraction=0.3)


def samples(counts: dict[str, int], group_size: int = 0) -> list[Sample]:
    """So many images of each class, in groups of `group_size` (0: none)."""
    return [
        Sample(
            Path(f"{label}{i}"),
            label,
            "train",
            hashlib.sha256(f"{label}{i}".encode()).hexdigest(),
            f"{label}{i // group_size}" if group_size else None,
        )
        for label, count in counts.items()
        for i in range(count)
    ]


def splits(found: Sequence[Sample]) -> dict[str, str]:
    return {sample.sha256: sample.split for sample in found}


def counts_of(found: Sequence[Sample], split: str) -> Counter[str]:
    return Counter(sample.label for sample in found if sample.split == split)


@pytest.mark.parametrize("group_size", [0, 3])
def test_where_there_are_enough_the_rule_alone_decides(group_size: int) -> None:
    images = samples({"a": 600, "b": 900}, group_size)
    found = split_by_hash(images, RULE)
    assert [s.split for s in found] == [RULE.split(unit_of(s)) for s in images]
    assert counts_of(found, "test")["a"] == pytest.approx(180, abs=50)
    assert counts_of(found, "val")["b"] == pytest.approx(180, abs=50)


def test_an_image_stays_where_it_is_when_others_come() -> None:
    before = splits(split_by_hash(samples({"a": 50, "b": 80}), RULE))
    after = splits(split_by_hash(samples({"a": 200, "b": 300, "c": 40}), RULE))
    assert {digest: after[digest] for digest in before} == before


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("count", [1, 2, 3, 4, 6, 9, 15])
def test_small_classes_have_something_everywhere(count: int, seed: int) -> None:
    found = split_by_hash(samples({"a": count, "b": 40}), SplitRule(seed=seed))
    train, val, test = (counts_of(found, split)["a"] for split in ("train", "val", "test"))
    assert train + val + test == count
    assert train >= max(1, 0.35 * count - 2)
    assert (test + val > 0) == (count >= 2)
    assert (test > 0 and val > 0) == (count >= 3)


def test_without_a_fraction_nothing_is_taken() -> None:
    found = split_by_hash(samples({"a": 30, "b": 3}), SplitRule(0.2, 0.0))
    assert not counts_of(found, "test")
    assert set(counts_of(found, "val")) == {"a", "b"}


def test_groups_and_copies_move_together_and_named_splits_stay() -> None:
    images = samples({"a": 20, "b": 7}, 4) + [
        replace(sample, path=Path("copy"), group=None) for sample in samples({"c": 9})
    ] * 2  # fmt: skip
    images += [replace(sample, split="test") for sample in samples({"d": 5})]
    found = split_by_hash(images, RULE)
    where = {(unit_of(sample), sample.split) for sample in found}
    assert len(where) == len({unit for unit, _ in where})
    assert counts_of(found, "test")["d"] == 5


def test_one_group_of_a_class_is_trained_on() -> None:
    found = split_by_hash(samples({"a": 5, "b": 50}, 5), RULE)
    assert counts_of(found, "train")["a"] == 5
