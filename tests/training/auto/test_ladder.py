from __future__ import annotations

from itertools import pairwise

import pytest

from models.network.strategies import match_layers, trainable_layers
from models.network.unfreezing import Strategy
from models.network.vgg19 import VGG19
from training.auto.ladder import ladder, plan
from training.probe.recommend import Recommendation


def test_each_rung_trains_more_than_the_one_below_it() -> None:
    trained = [
        trainable_layers(VGG19, rung.strategy, unfreeze=rung.unfreeze) for rung in ladder(VGG19)
    ]
    assert [len(layers) for layers in trained] == [1, 2, 3, 7, 11, 15, 17, 19]
    assert all(less < more for less, more in pairwise(trained))
    assert match_layers(ladder(VGG19)[3].unfreeze, VGG19.layer_names) == set(VGG19.blocks[0])


@pytest.mark.parametrize(
    ("strategy", "unfreeze", "expected"),
    [
        ("head", (), ["head", "head, from classifier.3 on", "fc", "fc, from features.28 on"]),
        ("fc", (), ["fc", "fc, from features.28 on", "fc, from features.19 on"]),
        ("full", (), ["fc", "full"]),
        (None, (), ["fc", "fc, from features.28 on", "fc, from features.19 on"]),
        (
            "fc",
            ("features.19", "features.2?", "features.3?"),
            ["fc", "fc, from features.19 on", "fc, from features.10 on"],
        ),
    ],
)
def test_fc_comes_first_then_what_is_recommended_then_more(
    strategy: Strategy | None, unfreeze: tuple[str, ...], expected: list[str]
) -> None:
    rungs = plan(VGG19, Recommendation("so", strategy, unfreeze), "imagenet")
    assert [rung.name for rung in rungs][: len(expected)] == expected
    assert rungs[-1].name == "full"


def test_random_weights_are_not_frozen() -> None:
    (rung,) = plan(VGG19, Recommendation("so", "full"), "none")
    assert rung.strategy == "full"
