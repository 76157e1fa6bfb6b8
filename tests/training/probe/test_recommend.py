from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import pytest

from models.linear.predictions import Predictions
from models.network.architecture import Architecture
from models.network.strategies import trainable_layers
from models.network.unfreezing import Strategy
from models.network.vgg19 import VGG19
from tests.made_up_network import MADE_UP
from training.probe.features import depths
from training.probe.judge import DepthScore
from training.probe.recommend import best_of, recommend

IMAGES = 1000


def scores(accuracies: Sequence[float], architecture: Architecture = VGG19) -> list[DepthScore]:
    """The more is right at a depth, the more of the same images are, and the smaller is the error
    (but for some noise)."""
    targets, suggested = np.zeros(IMAGES, np.int64), np.ones(IMAGES, np.int64)
    places = np.arange(IMAGES) / IMAGES
    noise = np.random.default_rng(0).normal(0, 0.1, (len(accuracies), IMAGES))
    noise -= noise.mean(axis=1, keepdims=True)
    return [
        DepthScore(depth, Predictions(targets, suggested, places - accuracy, 1 - accuracy + own), 0)
        for depth, accuracy, own in zip(depths(architecture, 32), accuracies, noise, strict=True)
    ]


BLOCK_2 = "--unfreeze features.5 --unfreeze features.7"
BLOCK_5 = "--unfreeze features.28 --unfreeze 'features.3?'"
BLOCKS_4_5 = "--unfreeze features.19 --unfreeze 'features.2?' --unfreeze 'features.3?'"
BLOCKS_3_5 = "--unfreeze 'features.1?' --unfreeze 'features.2?' --unfreeze 'features.3?'"


@pytest.mark.parametrize(
    ("best", "options", "first_trained"),
    [
        (
            0,
            f"--strategy fc --unfreeze features.5 --unfreeze features.7 {BLOCKS_3_5}",
            "features.5",
        ),
        (1, f"--strategy fc {BLOCKS_3_5}", "features.10"),
        (2, f"--strategy fc {BLOCKS_4_5}", "features.19"),
        (3, f"--strategy fc {BLOCK_5}", "features.28"),
        (4, "--strategy fc", "classifier.0"),
        (5, "--strategy head --unfreeze classifier.3", "classifier.3"),
        (6, "--strategy head", "classifier.6"),
    ],
)
def test_what_lies_above_the_best_depth_is_trained(
    best: int, options: str, first_trained: str
) -> None:
    accuracies = [0.6] * 7
    accuracies[best] = 0.8
    found = recommend(scores(accuracies), 0.1, "imagenet", VGG19)
    assert found.options == options
    assert "right for 80.0% (77.4% to 82.4%)" in found.reason
    assert "can't tell" not in found.reason
    _, strategy, *rest = shlex.split(options)
    trained = trainable_layers(VGG19, cast(Strategy, strategy), unfreeze=rest[1::2])
    names = VGG19.layer_names
    assert trained == set(names[names.index(first_trained) :])


def test_another_networks_layers_have_other_names() -> None:
    found = recommend(scores([0.8, 0.6, 0.6], MADE_UP), 0.1, "imagenet", MADE_UP)
    assert found.options == "--strategy fc --unfreeze deep"


def test_depths_that_the_images_cant_tell_apart_are_named() -> None:
    found = recommend(scores([0.6, 0.7, 0.802, 0.8, 0.799, 0.7, 0.6]), 0.1, "imagenet", VGG19)
    assert found.options == f"--strategy fc {BLOCKS_4_5}"
    assert found.reason.endswith("these images can't tell it from block 4, block 5")


def test_what_is_as_good_as_luck_recommends_nothing() -> None:
    found = recommend(scores([0.5, 0.52] + [0.5] * 5), 0.5, "imagenet", VGG19)
    assert found.options is None
    assert found.reason.startswith("can't tell what to train: block 2 is the best with 52.0%")


def test_random_layers_are_all_trained() -> None:
    accuracies = [0.6, 0.8, *[0.6] * 5]
    assert recommend(scores(accuracies), 0.1, "none", VGG19).options == (
        "--strategy full --head-init ridge"
    )


def test_the_errors_tell_depths_apart_where_as_many_images_are_right() -> None:
    same = scores([0.8] * 7)
    better = replace(same[2].predictions, errors=same[2].predictions.errors - 0.1)
    found = recommend(
        [*same[:2], replace(same[2], predictions=better), *same[3:]], 0.1, "imagenet", VGG19
    )
    assert found.options == f"--strategy fc {BLOCKS_4_5}"
    assert "can't tell" not in found.reason


def test_of_equals_the_nearest_to_the_head_is_the_best() -> None:
    found = scores([0.5, 0.7, 0.7, 0.7, 0.6, 0.1, 0.1])
    equal = [replace(score, predictions=found[1].predictions) for score in found[1:4]]
    assert best_of([found[0], *equal, *found[4:]]).depth.name == "block 4"
