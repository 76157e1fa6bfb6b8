from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from models.imaging.preprocessing import Preprocessing
from training.loop.config import RESUMABLE, TrainConfig
from training.loop.config_file import (
    ConfigError,
    flag,
    load_config,
    read_config,
    read_resumed,
    recorded_config,
    write_config,
)

BASE = {"data": "d", "output": "o"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"strategy": "head2"},
            "strategy is 'head2', it should be 'auto', 'fc', 'full', 'head' or 'gradual'",
        ),
        ({"image_size": 31}, "image_size is 31, it should be greater than or equal to 32"),
        ({"epochs": 0}, "epochs is 0, it should be greater than or equal to 1"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0, it should be greater than 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan, it should be a finite number"),
        ({"max_bad_fraction": 1.5}, "max_bad_fraction is 1.5"),
        ({"val_fraction": 0.5, "test_fraction": 0.5}, "leave nothing to train on"),
        ({"resize_size": 100}, "resize_size is 100, it must be 224"),
        (
            {"resize": "squash", "resize_size": 256},
            "resize_size is 256, but resize squash crops nothing; leave it out, or make it 224",
        ),
        ({"resize": "fit"}, "resize is 'fit', it should be 'crop', 'squash' or 'pad'"),
        ({"epcohs": 3}, "unknown config key 'epcohs'; the keys are data, output, weights"),
    ],
)
def test_errors_name_key_value_and_limit(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, BASE | values)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_data_is_needed() -> None:
    with pytest.raises(ConfigError, match="^data is missing; give --data"):
        load_config(None, {})


def test_flags_win_over_the_file_and_none_is_not_given(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("data: images\nepochs: 3\nbatch_size: 8\n")
    config = load_config(file, {"output": "o", "epochs": 5, "batch_size": None})
    assert (config.epochs, config.batch_size, config.data) == (5, 8, Path("images"))


@pytest.mark.parametrize("content", ["a: [", "just words", "- 1"])
def test_files_that_are_no_configuration(tmp_path: Path, content: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=r"config file .*c\.yaml"):
        load_config(file, {})


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_config(tmp_path / "none.yaml", {})


def test_output_has_a_default_with_the_name_of_the_data() -> None:
    output = load_config(None, {"data": "photos/flowers"}).output
    assert output.parent == Path("runs")
    assert output.name.startswith("flowers-20")


def test_resolved_configuration_is_written_and_read_back(tmp_path: Path) -> None:
    config = load_config(None, BASE | {"image_size": 64}).resolved(blocks=5)
    assert config.resize_size == 73
    write_config(config, tmp_path / "config.yaml")
    assert read_config(tmp_path / "config.yaml") == config


def test_a_run_from_before_there_was_a_choice_crops() -> None:
    recorded = load_config(None, BASE).resolved(blocks=5).model_dump(mode="json")
    del recorded["resize"]
    assert recorded_config(recorded).preprocessing() == Preprocessing()


def test_a_run_from_before_there_was_a_fit_began_with_a_random_head() -> None:
    recorded = load_config(None, BASE).resolved(blocks=5).model_dump(mode="json")
    assert recorded.pop("head_init") in ("ridge", "random")  # what it is, not auto
    assert recorded_config(recorded).head_init == "random"


@pytest.mark.parametrize("name", TrainConfig.model_fields)
def test_a_resumed_run_takes_what_changes_how_it_computes_and_refuses_the_rest_by_name(
    name: str, tmp_path: Path
) -> None:
    begun = load_config(None, BASE).resolved(blocks=5).absolute()
    write_config(begun, tmp_path / "config.yaml")
    value = getattr(begun, name)
    if name not in RESUMABLE:
        with pytest.raises(ConfigError, match=rf"in which {flag(name)} can't change; what can is"):
            read_resumed(tmp_path / "config.yaml", tmp_path, {name: value})
        return
    other = {"device": "cpu", "cache_dir": "/elsewhere", "auto_batch": True, "compile": True}
    resumed = read_resumed(tmp_path / "config.yaml", tmp_path, {name: other.get(name, 7)})
    assert getattr(resumed, name) != value
    kept = {name, "output"}
    assert resumed.model_dump(exclude=kept) == begun.model_dump(exclude=kept)
    assert resumed.output == tmp_path
