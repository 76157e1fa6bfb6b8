from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.data.sampling import (
    Draw,
    EpochBatches,
    balanced_class_weights,
    balanced_probabilities,
    epoch_order,
)

TARGETS = [0] * 6 + [1] * 3 + [2]


def test_each_image_once_in_an_order_of_seed_and_epoch() -> None:
    order = epoch_order(50, seed=1, epoch=2)
    assert sorted(order) == list(range(50))
    assert order == epoch_order(50, seed=1, epoch=2)
    assert order != epoch_order(50, seed=1, epoch=3)
    assert order != epoch_order(50, seed=2, epoch=2)


@given(
    count=st.integers(1, 40),
    batch_size=st.integers(1, 12),
    world_size=st.integers(1, 5),
    start=st.integers(0, 3),
)
def test_processes_share_each_batch_and_every_image_is_seen_once(
    count: int, batch_size: int, world_size: int, start: int
) -> None:
    order = epoch_order(count, seed=0, epoch=1)
    shares = [
        EpochBatches(order, batch_size, start=start, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    plain = list(EpochBatches(order, batch_size, start=start))
    parts = [list(share) for share in shares]
    assert {len(part) for part in parts} == {len(plain)}  # nobody waits for the others for ever
    for batch, *dealt in zip(plain, *parts, strict=True):
        assert all(dealt)
        real = [draw for part in dealt for draw in part if draw.weight == 1.0]
        assert sorted(real) == sorted(batch)
    assert max(0, len(shares[0])) == len(plain)
    assert [draw.image for batch in plain for draw in batch] == order[start * batch_size :]


def test_augmentation_seeds_are_the_places_in_the_run() -> None:
    first, second = EpochBatches([4, 2, 9], 2, first_seed=30)
    assert first == [Draw(4, 30), Draw(2, 31)]
    assert second == [Draw(9, 32)]
    assert next(iter(EpochBatches([4, 2, 9], 2, first_seed=30, start=1))) == second


def test_balanced_class_weights_by_hand() -> None:
    weights = balanced_class_weights(TARGETS, 3)
    assert weights.tolist() == pytest.approx([10 / 18, 10 / 9, 10 / 3])
    assert weights.dtype == torch.float32


def test_balanced_sampling_draws_the_classes_equally_often() -> None:
    probabilities = balanced_probabilities(TARGETS, 3)
    by_class = [float(probabilities[:6].sum()), float(probabilities[6:9].sum())]
    assert [*by_class, float(probabilities[9])] == pytest.approx([1 / 3] * 3)
    drawn: Counter[int] = Counter()
    for epoch in range(300):
        order = epoch_order(10, seed=0, epoch=epoch, probabilities=probabilities)
        drawn.update(TARGETS[image] for image in order)
    assert all(count == pytest.approx(1000, abs=120) for count in drawn.values())
