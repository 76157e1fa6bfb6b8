from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli import main as cli
from cli.config_flags import given
from training.loop.config import FORMER_NAMES, TrainConfig
from training.loop.config_file import flag, load_config

# A value of each field that is not its default.
OTHER: dict[str, Any] = {
    "data": "d", "output": "o", "weights": "none", "image_size": 64, "resize": "pad",
    "resize_size": 300,
    "dropout": 0.1, "strategy": "full", "unfreeze": ["features.0", "features.2"],
    "unfreeze_epochs": [2, 3], "head_init": "random", "epochs": 3,
    "batch_size": 4, "micro_batch_size": 2,
    "auto_batch": True, "optimizer": "sgd", "learning_rate": 0.5, "pretrained_learning_rate": 0.25,
    "layer_decay": 0.5, "schedule": "constant", "warmup_fraction": 0.5, "weight_decay": 0.5,
    "momentum": 0.5, "clip_norm": 2.0, "ema_decay": 0.5, "early_stopping": 2,
    "label_smoothing": 0.0, "class_weights": "balanced", "balanced_sampling": True,
    "augment": "rand", "crop_scale": 0.5, "horizontal_flip": False, "random_erasing": 0.5,
    "mixup": 0.5, "cutmix": 0.5, "views": 1, "cache_dir": "c", "cache_limit": "5GB",
    "cache_dtype": "float16", "target_precision": 0.5, "ood_data": "other", "label_column": "l",
    "image_column": "i", "split_column": "s", "split_names": {"fit": "train"},
    "allow_conflicting_labels": True, "val_fraction": 0.2, "test_fraction": 0.2,
    "split_by": "exact", "exclude": "wrong.csv", "max_bad_fraction": 0.5,
    "seed": 5, "device": "cpu", "mixed_precision": "no", "compile": True, "num_workers": 1,
    "save_every_steps": 5, "save_every_seconds": 5.0, "tracker": "wandb",
}  # fmt: skip


def parse(patch: pytest.MonkeyPatch, *arguments: str) -> TrainConfig:
    """What `vgg19 train` is given by these arguments."""
    trained: list[TrainConfig] = []
    patch.setattr("training.auto.train.train", lambda config, _: trained.append(config))
    patch.setattr("signal.signal", lambda *_: None)
    patch.setattr(sys, "argv", ["vgg19", "train", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    return trained[0]


def typed(name: str, value: object) -> list[str]:
    if isinstance(value, bool):
        return [flag(name) if value else f"--no-{flag(name)[2:]}"]
    if isinstance(value, dict):  # flags have another form of it, and its singular's name
        return [word for pair in value.items() for word in (flag(name)[:-1], "=".join(pair))]
    values = value if isinstance(value, list) else [value]
    return [word for one in values for word in (flag(name), str(one))]


def test_another_value_is_known_of_every_field() -> None:
    assert list(OTHER) == [name for name in TrainConfig.model_fields if name != "network"]


@pytest.mark.parametrize("name", OTHER)
def test_every_field_is_a_flag_and_means_what_it_means_in_a_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump({"data": "x", "output": "y"} | {name: OTHER[name]}))
    needed = [
        word
        for one in ("data", "output")
        if one != name
        for word in (flag(one), "xy"[one == "output"])
    ]
    config = parse(monkeypatch, *needed, *typed(name, OTHER[name]))
    assert config == load_config(file, {})
    if not TrainConfig.model_fields[name].is_required():
        assert getattr(config, name) != TrainConfig.model_fields[name].default


@pytest.mark.parametrize("former", FORMER_NAMES)
def test_former_names_are_flags_as_well(former: str, monkeypatch: pytest.MonkeyPatch) -> None:
    present = FORMER_NAMES[former]
    arguments = ["--data", "x", "--output", "y"]
    words = typed(former, OTHER[present])
    assert parse(monkeypatch, *arguments, *words) == parse(
        monkeypatch, *arguments, *typed(present, OTHER[present])
    )


@pytest.mark.parametrize("argument", ["--data=~/x", "--data ~/x"])
def test_home_is_known_where_the_shell_leaves_it(
    argument: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/h")
    assert parse(monkeypatch, *argument.split()).data == Path("/h/x")


def test_zero_and_false_are_given() -> None:
    values: dict[str, Any] = {
        "views": 0,
        "horizontal_flip": False,
        "epochs": None,
        "unfreeze": [],
        "a": (),
    }
    assert given(values) == {"views": 0, "horizontal_flip": False}
