from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from models.files import staged_file
from testing.bundles import tiny_spec
from training.loop import checkpointer as checkpointer_module
from training.loop.checkpoint import CheckpointError
from training.loop.checkpointer import Checkpointer
from training.loop.history import Epoch, best_epoch
from training.loop.run import Run
from training.loop.state import is_finished, read_state
from training.loop.trainer import TrainState

pytestmark = pytest.mark.slow


class Scene:
    """A checkpointer of a model of one number, and a clock that the test turns."""

    def __init__(self, path: Path, patch: pytest.MonkeyPatch) -> None:
        self.run = Run(path)
        self.model = nn.Linear(1, 1, bias=False)
        self.now = 0.0
        self.history: list[Epoch] = []
        patch.setattr(
            "training.loop.checkpointer.time", SimpleNamespace(monotonic=lambda: self.now)
        )
        accelerator = SimpleNamespace(is_main_process=True, num_processes=1, scaler=None)
        context: Any = SimpleNamespace(
            config=SimpleNamespace(save_every_seconds=100),
            accelerator=accelerator,
            spec=tiny_spec(),
        )
        trainer: Any = SimpleNamespace(
            inference_model=self.model,
            model=SimpleNamespace(model=self.model),
            optimizer=torch.optim.SGD([{"params": list(self.model.parameters()), "name": "x"}]),
            ema=None,
            accelerator=accelerator,
            check_weights=lambda state: None,
        )
        self.checkpointer = Checkpointer(trainer, context, self.run)

    @property
    def saved(self) -> tuple[int, int]:
        """Epoch and length of the history of the state on the disk."""
        state = read_state(self.run.state)
        return state["position"]["epoch"], len(state["history"])

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
    assert not scene.run.state.exists()
    assert scene.checkpointer.finish(scene.history) is scene.model
    assert scene.weights() == {"best": 2, "last": 3}
    assert scene.model.weight.item() == 2  # the best one, to judge


def test_after_long_enough_everything_is_written(scene: Scene) -> None:
    scene.epoch(1, accuracy=0.5, seconds=99)
    assert not scene.run.state.exists()
    scene.epoch(2, accuracy=0.4, seconds=1)
    assert scene.saved == (3, 2)
    assert scene.weights() == {"best": 1, "last": 2}
    scene.epoch(3, accuracy=0.3, seconds=99)
    assert scene.saved == (3, 2)


def test_the_best_is_on_the_disk_before_the_state_that_counts_on_it(scene: Scene) -> None:
    scene.epoch(1, accuracy=0.5)
    scene.set(7)  # inside of the second epoch
    scene.checkpointer.save(TrainState(epoch=2, batch=3), scene.history)
    assert scene.saved == (2, 1)
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
    best = resumed.checkpointer.finish(resumed.history)
    assert best.get_parameter("weight").item() == 1
    assert resumed.weights() == {"best": 1, "last": 2}


def test_the_end_of_the_epochs_is_saved_without_their_weights(scene: Scene) -> None:
    scene.epoch(1, accuracy=0.5)
    scene.checkpointer.finish(scene.history)
    state = read_state(scene.run.state)
    assert is_finished(state)
    assert (state["position"]["epoch"], len(state["history"])) == (2, 1)


class TestErrors:
    def test_leave_the_best_weights_where_nothing_was_saved(self, scene: Scene) -> None:
        scene.epoch(1, accuracy=0.5)
        scene.checkpointer.leave_best()
        assert scene.weights() == {"best": 1}
        scene.checkpointer.recover([])  # begun again, it doesn't know of them
        assert scene.weights() == {}
        assert not scene.run.metrics.exists()

    def test_leave_what_was_saved_as_it_is(self, scene: Scene) -> None:
        scene.epoch(1, accuracy=0.5, seconds=100)
        scene.epoch(2, accuracy=0.9)
        scene.checkpointer.leave_best()
        assert scene.weights()["best"] == 1

    def test_of_the_state_leave_the_best_weights_that_were_written(
        self, scene: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object) -> None:
            raise CheckpointError("the disk is full")

        monkeypatch.setattr(checkpointer_module, "save_state", full)
        with pytest.raises(CheckpointError):
            scene.epoch(1, accuracy=0.5, seconds=100)
        monkeypatch.setattr(checkpointer_module, "save_checkpoint", full)
        scene.checkpointer.leave_best()
        assert scene.weights()["best"] == 1

    def test_a_missing_best_is_said(self, scene: Scene) -> None:
        scene.epoch(1, accuracy=0.5, seconds=100)
        scene.run.best.unlink()
        with pytest.raises(CheckpointError, match=r"best\.safetensors is missing, and the state"):
            scene.checkpointer.recover(scene.history)


CHANGES = {"open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.chmod"}


def _train(scene: Scene) -> None:
    """Better and worse epochs, saves between and inside of them, and the end."""
    scene.epoch(1, accuracy=0.5)
    scene.epoch(2, accuracy=0.6, seconds=100)
    scene.epoch(3, accuracy=0.4, seconds=100)
    scene.epoch(4, accuracy=0.7)
    scene.checkpointer.save(TrainState(epoch=5, batch=2), scene.history)
    scene.epoch(5, accuracy=0.8, seconds=100)
    scene.epoch(6, accuracy=0.9)
    scene.checkpointer.finish(scene.history)


def _train_killed(scene: Scene, change: int) -> bool:
    """Train in a child that SIGKILL ends before its `change`th change of a file; whether it did."""
    child = os.fork()
    if child == 0:
        changes = 0

        def count(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal changes
            if event in CHANGES and str(scene.run.path) in str(arguments[0]):
                changes += 1
                if changes == change:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        try:
            _train(scene)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


@pytest.fixture
def killed_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """A run killed before each change of a file, one after the other."""

    def runs() -> Iterator[Scene]:
        for change in range(1, 1000):
            scene = Scene(tmp_path / str(change), monkeypatch)
            if not _train_killed(scene, change):
                assert change > 50
                return
            yield scene

    return runs()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.exhaustive
def test_killed_before_any_change_of_a_file_best_is_the_one_of_the_state(
    killed_runs: Iterator[Scene],
) -> None:
    """Each epoch's weight is its number."""
    for scene in killed_runs:
        history = []
        if scene.run.state.exists():
            history = [Epoch(**row) for row in read_state(scene.run.state)["history"]]
        believed = best_epoch(history).epoch if history else 0
        assert scene.weights().get("best", 0) <= believed  # never newer
        scene.run.best.parent.mkdir(parents=True, exist_ok=True)

        scene.checkpointer.recover(history)

        assert scene.weights().get("best", 0) == believed
        left = {path.name for path in scene.run.best.parent.iterdir()}
        assert left <= {"best.safetensors", "last.safetensors", "state.pt"}
        # It goes on, on a machine where no epoch is as good as those before.
        scene.history = history
        scene.epoch(77, accuracy=0.1, seconds=100)
        assert scene.weights() == {"best": believed or 77, "last": 77}


def test_what_a_killed_write_leaves_is_removed(scene: Scene) -> None:
    scene.epoch(1, accuracy=0.5, seconds=100)
    files = (scene.run.state, scene.run.staged_best(3), scene.run.last, scene.run.metrics)
    for file in files:
        with staged_file(file) as staging:
            half_written = staging.with_name(staging.name + "x")
            staging.touch()
        half_written.touch()
        assert half_written.exists()
    scene.checkpointer.recover(scene.history)
    folders = (scene.run.path, scene.run.best.parent)
    assert [path for folder in folders for path in folder.iterdir() if path.name[0] == "."] == []
    assert scene.run.staged_bests() == []
