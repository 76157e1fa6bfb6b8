from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from models.imaging.preprocessing import Preprocessing, Resize
from training.loop.config import TrainConfig
from training.loop.config_file import load_config, read_config, write_config

BASE = {"data": "d", "output": "o"}


@pytest.mark.parametrize(
    ("weights", "given", "rate"),
    [("imagenet", None, 2e-4), ("none", None, 2e-3), ("imagenet", 5e-5, 5e-5)],
)
def test_learning_rate_of_pretrained_layers(weights: str, given: float | None, rate: float) -> None:
    values = {"weights": weights, "learning_rate": 2e-3, "pretrained_learning_rate": given}
    config = load_config(None, BASE | values).resolved(blocks=5)
    assert config.pretrained_learning_rate == pytest.approx(rate)


@pytest.mark.parametrize("resize", ["squash", "pad"])
def test_without_a_crop_the_shorter_side_is_no_other(tmp_path: Path, resize: Resize) -> None:
    config = load_config(None, BASE | {"image_size": 64, "resize": resize}).resolved(blocks=5)
    assert config.preprocessing() == Preprocessing(image_size=64, resize=resize)
    assert config.resize_size == 64
    write_config(config, tmp_path / "config.yaml")
    assert read_config(tmp_path / "config.yaml") == config


@pytest.mark.parametrize("weights", ["imagenet", "none"])
@pytest.mark.parametrize("strategy", ["head", "fc", "gradual", "full"])
def test_the_head_begins_with_a_fit_unless_everything_is_random(
    strategy: str, weights: str
) -> None:
    def head_init(**changes: Any) -> str:
        values = BASE | {"strategy": strategy, "weights": weights} | changes
        return load_config(None, values).resolved(blocks=5).head_init

    from_scratch = (strategy, weights) == ("full", "none")
    assert head_init() == ("random" if from_scratch else "ridge")
    for asked in ("ridge", "random"):
        assert head_init(head_init=asked) == asked


FORMER = {"thaw_epochs": ("unfreeze_epochs", (2, 5)), "unlike": ("ood_data", Path("others"))}


@pytest.mark.parametrize("former", FORMER)
def test_former_names_are_read_as_the_present_ones(former: str) -> None:
    name, value = FORMER[former]
    config = load_config(None, BASE | {former: value})
    assert config == load_config(None, BASE | {name: value})
    assert getattr(config, name) == value


def test_the_training_page_lists_every_key() -> None:
    page = (Path(__file__).parents[3] / "docs" / "training.md").read_text()
    expected = [
        f"| `{name}` | {'required' if field.is_required() else f'`{field.default}`'} "
        f"| {field.description or ''} |"
        for name, field in TrainConfig.model_fields.items()
    ]
    table = page.split("| key | default | |\n|---|---|---|\n")[1].split("\n\n")[0]
    assert table.splitlines() == expected
