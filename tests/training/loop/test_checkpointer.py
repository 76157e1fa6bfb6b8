from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from testing.bundles import tiny_spec
from training.loop import checkpointer as checkpointer_module
from training.loop.checkpointer import Checkpointer
from training.loop.history import Epoch
from training.loop.run import Run
from training.loop.trainer import TrainState


class Scene:
    """A checkpointer of a model of one number, and a clock that the test turns."""

    def __init__(self, path: Path, patch: pytest.MonkeyPatch) -> None:
        self.run = Run(path)
        self.model = nn.Linear(1, 1, bias=False)
        self.now = 0.0
        self.states: list[tuple[int, int]] = []
        self.history: list[Epoch] = []
        patch.setattr(checkpointer_module, "save_state", self.save_state)
        patch.setattr(
            "training.loop.checkpointer.time", SimpleNamespace(monotonic=lambda: self.now)
        )
        context: Any = SimpleNamespace(
            config=SimpleNamespace(save_every_seconds=100),
            accelerator=SimpleNamespace(is_main_process=True, num_processes=1),
            spec=tiny_spec(),
        )
        trainer: Any = SimpleNamespace(inference_model=self.model, check_weights=lambda state: None)
        self.checkpointer = Checkpointer(trainer, context, self.run)

    def save_state(self, path: Path, trainer: Any, state: TrainState, history: Any) -> None:
        assert path == self.run.state
        self.states.append((state.epoch, len(history)))

    def set(self, weight: float) -> None:
        with torch.no_grad():
            self.model.weight.fill_(weight)

    def epoch(self, weight: float, accuracy: float, seconds: float = 10) -> None:
        self.now += seconds
        self.set(weight)
        number = len(self.history) + 1
        self.history.append(Epoch(number, 0, 0, 0, 0.5, accuracy, 0, 1))
        self.checkpointer.finish_epoch(TrainState(epoch=number + 1), self.history)

    def weights(self) -> dict[str, float]:
        return {
            path.stem: load_file(path)["weight"].item()
            for path in (self.run.best, self.run.last)
            if path.exists()
        }


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(tmp_path / "run", monkeypatch)


def test_young_epochs_cost_no_write_and_are_all_there_at_the_end(scene: Scene) -> None:
    scene.epoch(1, accuracy=0.5)
    scene.epoch(2, accuracy=0.9)
    scene.epoch(3, accuracy=0.7)
    assert scene.weights() == {}
    assert scene.states == []
    assert scene.checkpointer.finish(scene.history) is scene.model
    assert scene.weights() == {"best": 2, "last": 3}
    assert scene.model.weight.item() == 2  # the best one, to judge


def test_after_long_enough_everything_is_written(scene: Scene) -> None:
    scene.epoch(1, accuracy=0.5, seconds=99)
    assert scene.states == []
    scene.epoch(2, accuracy=0.4, seconds=1)
    assert scene.states == [(3, 2)]
    assert scene.weights() == {"best": 1, "last": 2}
    scene.epoch(3, accuracy=0.3, seconds=99)
    assert len(scene.states) == 1


def test_the_best_is_on_the_disk_before_the_state_that_counts_on_it(scene: Scene) -> None:
    scene.epoch(1, accuracy=0.5)
    scene.set(7)  # inside of the second epoch
    scene.checkpointer.save(TrainState(epoch=2, batch=3), scene.history)
    assert scene.states == [(2, 1)]
    assert scene.weights() == {"best": 1}  # `last` is of whole epochs


def test_a_best_that_is_the_last_takes_no_second_copy(scene: Scene) -> None:
    scene.epoch(1, accuracy=0.5, seconds=100)
    assert scene.run.best.stat().st_ino == scene.run.last.stat().st_ino
    scene.epoch(2, accuracy=0.6, seconds=100)
    scene.epoch(3, accuracy=0.1, seconds=100)
    assert scene.weights() == {"best": 2, "last": 3}


def test_a_resumed_run_without_a_better_epoch_ends_with_the_best_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Scene(tmp_path / "run", monkeypatch)
    first.epoch(1, accuracy=0.9, seconds=100)
    resumed = Scene(tmp_path / "run", monkeypatch)
    resumed.history = list(first.history)
    resumed.epoch(2, accuracy=0.5)
    stored = SimpleNamespace(state_dict=lambda: load_file(resumed.run.best))
    monkeypatch.setattr(checkpointer_module, "load_checkpoint", lambda path: (stored, None))
    assert resumed.checkpointer.finish(resumed.history).weight.item() == 1
    assert resumed.weights() == {"best": 1, "last": 2}
