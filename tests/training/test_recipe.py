from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from models.vgg19 import build
from tests.helpers import tiny_spec, write_image_folder
from training.checkpoint import load_checkpoint, save_checkpoint
from training.config import TrainConfig, load_config
from training.console import SilentReporter
from training.recipe import Epoch, fine_tune
from training.run import RunError


def config(tmp_path: Path, **changes: Any) -> TrainConfig:
    if not (tmp_path / "data").exists():
        write_image_folder(tmp_path / "data", {"blue": 6, "green": 6, "red": 6})
    values = {
        "data": tmp_path / "data",
        "output": tmp_path / "run",
        "weights": "none",
        "image_size": 32,
        "batch_size": 8,
        "epochs": 1,
    }
    return load_config(None, values | changes)


def test_fc_leaves_the_convolutions_and_trains_the_rest(tmp_path: Path) -> None:
    torch.manual_seed(9)
    start = build("none", num_classes=1000)
    save_checkpoint(start, tiny_spec(), tmp_path / "start.safetensors")
    reporter = SilentReporter()

    run = fine_tune(
        config(tmp_path, strategy="fc", weights=str(tmp_path / "start.safetensors")), reporter
    )

    trained, spec = load_checkpoint(run.last)
    assert spec.labels == ("blue", "green", "red")
    before = start.state_dict()
    for name, tensor in trained.state_dict().items():
        if not name.startswith("classifier.6."):
            assert torch.equal(tensor, before[name]) == name.startswith("features."), name
    assert "119,558,147 of 139,582,531 parameters train" in reporter.messages[0]
    assert "0.0001 (head), 1e-05 (the rest)" in reporter.messages[0]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_nothing_is_left_of_a_run_without_a_finished_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("training.recipe.train_epoch", fail)
    with pytest.raises(error):
        fine_tune(config(tmp_path), SilentReporter())
    assert not (tmp_path / "run").exists()


def test_an_existing_run_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "file").touch()
    monkeypatch.setattr("training.recipe.load_data", lambda *_: pytest.fail("data was read"))
    with pytest.raises(RunError, match="exists already"):
        fine_tune(config(tmp_path), SilentReporter())


def test_the_best_epoch_has_the_accuracy_then_the_loss() -> None:
    epochs = [
        Epoch(number, 0, 0, val_loss, val_accuracy, 0)
        for number, val_loss, val_accuracy in [(1, 0.1, 0.5), (2, 0.9, 0.8), (3, 0.4, 0.8)]
    ]
    assert max(epochs, key=lambda epoch: epoch.score).epoch == 3
