"""Mistakes are reported before any image is read: the data does not even exist here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from models.errors import UserError
from training.loop.config import TrainConfig
from training.loop.config_file import load_config
from training.loop.find_lr import find_learning_rate
from training.loop.preflight import check_config, check_rates
from training.loop.recipe import fine_tune
from training.reporter import SilentReporter

NONE = {"data": "there-is-no-data", "output": "there-is-no-run"}


def config(**values: Any) -> TrainConfig:
    return load_config(None, NONE | values)


MISTAKES = [
    ({"weights": "imagent"}, "--weights imagent: no such file; did you mean 'imagenet'"),
    ({"weights": "ImageNet"}, "did you mean 'imagenet'"),
    ({"weights": "None"}, "did you mean 'none'"),
    ({"weights": "best.safetensor"}, "--weights best.safetensor: no such file"),
    ({"weights": "."}, "--weights .: is a directory"),
    ({"weights": __file__}, "not a state dict, its first bytes"),
    ({"unfreeze": ["feature.3?"]}, "--unfreeze 'feature.3[?]' names no layer; the layers are feat"),
    ({"unfreeze": ["features.34", "block5"]}, "--unfreeze 'block5' names no layer"),
    (
        {"strategy": "gradual", "epochs": 5, "unfreeze_epochs": [2, 6]},
        r"unfreeze_epochs is \[2, 6\], but the run has the epochs 1 to 5, so 6 never comes",
    ),
    ({"strategy": "gradual", "unfreeze_epochs": [0, 2]}, "so 0 never comes"),
    ({"strategy": "gradual", "unfreeze_epochs": [-3]}, "so -3 never comes"),
    ({"strategy": "fc", "unfreeze_epochs": [2]}, "which is for strategy gradual, and .* is fc"),
    (
        {"strategy": "gradual", "unfreeze_epochs": [2, 3, 4, 5, 6, 7]},
        "6 epochs, and there are 5 blocks to unfreeze; name 5 at most",
    ),
    ({"network": "vgg16"}, "there is no network 'vgg16'; choose one of vgg19"),
]


@pytest.mark.parametrize(("values", "message"), MISTAKES)
def test_mistakes(
    values: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for attempt in (
        check_config,
        lambda wrong: fine_tune(wrong, SilentReporter()),
        lambda wrong: find_learning_rate(wrong, SilentReporter(), lowest=1e-6, highest=1, steps=20),
    ):
        with pytest.raises(UserError, match=message):
            attempt(config(**values))


@pytest.mark.parametrize(
    "values",
    [
        {"weights": "imagenet"},
        {"weights": "none", "unfreeze": ["features.3?", "classifier.*"]},
        {"strategy": "gradual", "epochs": 5, "unfreeze_epochs": [1, 5]},
        {"strategy": "gradual", "epochs": 1},
    ],
)
def test_what_is_right_passes_given_and_resolved(values: dict[str, Any]) -> None:
    check_config(config(**values))
    check_config(config(**values).resolved(blocks=5))  # as `vgg19 reproduce` has it


@pytest.mark.parametrize("name", ["new.pth", "old.pth", "w.pt", "w.safetensors"])
def test_state_dicts_of_every_kind_pass(tmp_path: Path, name: str) -> None:
    state, path = {"x": torch.zeros(2)}, tmp_path / name
    if name.endswith("safetensors"):
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=name != "old.pth")
    check_config(config(weights=str(path)))


@pytest.mark.parametrize(
    ("lowest", "highest"),
    [(0, 1), (-1e-7, 1), (1, 1), (1, 1e-7), (1e-7, 1e9), (1e-7, float("inf")),
     (float("nan"), 1), (1e-7, float("nan"))],
)  # fmt: skip
def test_ranges_of_find_lr(lowest: float, highest: float) -> None:
    with pytest.raises(UserError, match="--lowest is .* and --highest is .*; they must be above 0"):
        find_learning_rate(config(), SilentReporter(), lowest=lowest, highest=highest, steps=100)


@pytest.mark.parametrize("steps", [-1, 0, 1, 19])
def test_steps_of_find_lr(steps: int) -> None:
    with pytest.raises(UserError, match=f"--steps is {steps}, it must be 20 or more"):
        check_rates(1e-7, 1, steps)


@pytest.mark.parametrize("output", ["none/find-lr.png", "find-lr.xyz", "find-lr"])
def test_the_picture_of_find_lr(tmp_path: Path, output: str) -> None:
    with pytest.raises(UserError, match=r"it must be a \.png file in a directory that exists"):
        check_rates(1e-7, 1, 20, tmp_path / output)
    check_rates(1e-7, 1, 20, tmp_path / "find-lr.png")
