from __future__ import annotations

import json
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from models.linear.head_fit import HeadFit, fit_head
from models.linear.ridge import Design, fit
from testing.images import write_image_folder
from training.features.batches import CachedFeatures
from training.loop.accelerator import make_accelerator
from training.loop.checkpoint import load_checkpoint, weights_digest
from training.loop.config import TrainConfig
from training.loop.config_file import load_config
from training.loop.context import TrainContext, load_data, resolved
from training.loop.processes import Processes
from training.loop.recipe import fine_tune, resume_run
from training.loop.setup import set_up
from training.loop.signals import Terminated
from training.loop.trainer import Trainer
from training.probe.head_start import start_head
from training.reporter import SilentReporter

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("thin_network")]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_image_folder(tmp_path / "data", {"blue": 12, "green": 12, "red": 12})


def config(data: Path, **changes: Any) -> TrainConfig:
    values = {
        "data": data, "output": data.parent / "run", "weights": "none", "strategy": "head",
        "image_size": 32, "batch_size": 8, "epochs": 2, "mixed_precision": "no",
        "cache_dir": data.parent / "cache",
    }  # fmt: skip
    return load_config(None, values | changes)


class Begun:
    """What a run is made of before its first epoch."""

    def __init__(self, config: TrainConfig) -> None:
        self.reporter = SilentReporter()
        accelerator = make_accelerator("cpu", "no")
        data = load_data(config, self.reporter)
        self.context = TrainContext(resolved(config), data, accelerator, self.reporter)
        self.trainer, _ = set_up(self.context)
        self.source = CachedFeatures(self.context, self.trainer.model)
        self.processes = Processes(accelerator)

    def design(self) -> Design:
        features: Any = self.source.features("train")
        targets = np.array(self.context.dataset("train").targets)
        return Design(features, targets, len(self.context.data.labels))

    def start(self) -> Any:
        started = start_head(self.trainer, self.source, self.context, self.processes)
        return started and started.stats

    @property
    def head(self) -> dict[str, torch.Tensor]:
        return self.trainer.model.model.get_submodule("classifier.6").state_dict()


def test_a_fit_that_steps_spoil_stays_the_best(data: Path) -> None:
    """What `best` says of validation images is what the ridge says."""
    reporter = SilentReporter()
    run = fine_tune(config(data, learning_rate=10.0, schedule="constant"), reporter)
    metrics = run.read_json(run.metrics)
    fitted, *trained = metrics["history"]
    assert (metrics["best_epoch"], fitted["epoch"], len(trained)) == (0, 0, 2)
    assert all(row["val_loss"] > fitted["val_loss"] for row in trained)
    page = run.report.read_text()
    assert ">0 of 2<" in page
    head = metrics["head"]
    assert fitted["train_accuracy"] == head["leave_one_out_right"] / head["images"]
    assert sum(fold["images"] for fold in head["folds"]) == head["images"]
    assert "leaving one out" in page
    assert "5 folds of " in page

    begun = Begun(config(data))
    design = begun.design()
    expected = fit_head(design)
    best = load_checkpoint(run.best)[0].state_dict()
    assert np.array_equal(best["classifier.6.weight"].numpy(), expected.weight)
    assert np.array_equal(best["classifier.6.bias"].numpy(), expected.bias)
    val: Any = begun.source.features("val")
    answers = fit(design).classifier.scores(val).argmax(axis=1)
    right = (answers == begun.context.dataset("val").targets).mean()
    assert fitted["val_accuracy"] == pytest.approx(right)
    said = [line for line in reporter.messages if line.startswith(("the head", "epoch"))]
    assert said[0].startswith("the head starts with a ridge regression on 32 features of ")
    assert said[1].startswith("epoch 0/2  train loss ")
    assert [line.endswith("  best") for line in said] == [False, True, False, False]


def test_epochs_go_on_from_it(data: Path) -> None:
    run = fine_tune(config(data, ema_decay=0.5), SilentReporter())
    fitted, first, _ = run.read_json(run.metrics)["history"]
    random = fine_tune(
        config(data, ema_decay=0.5, head_init="random", output=data.parent / "random"),
        SilentReporter(),
    )
    assert first["val_loss"] == pytest.approx(fitted["val_loss"], abs=0.05)
    # By the loss that is trained on. Without label smoothing it would seem to rise sixfold.
    assert first["train_loss"] == pytest.approx(fitted["train_loss"], abs=0.1)
    assert random.read_json(random.metrics)["history"][0]["val_loss"] > first["val_loss"] + 0.2


@pytest.mark.parametrize(
    "moment", [pytest.param("the fit", marks=pytest.mark.exhaustive), "epoch 0", "epoch 1"]
)
def test_stopped_and_resumed_ends_bit_identical(
    data: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    whole = fine_tune(config(data, output=data.parent / "whole"), SilentReporter())
    owner, name = {
        "the fit": (CachedFeatures, "_fill"),
        "epoch 0": (TrainContext, "predict"),
        "epoch 1": (Trainer, "step"),
    }[moment]
    function: Any = getattr(owner, name)
    calls = 0

    def stopping(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            signal.raise_signal(signal.SIGINT)
            options |= {"stop_requested": True} if moment == "epoch 1" else {}
        return function(*arguments, **options)

    monkeypatch.setattr(owner, name, stopping)
    cache = data.parent / "another"  # nothing is found there
    with pytest.raises(Terminated):
        fine_tune(config(data, cache_dir=cache), SilentReporter())
    resumed = resume_run(data.parent / "run", SilentReporter())
    for checkpoint in ("best", "last"):
        assert weights_digest(getattr(resumed, checkpoint)) == weights_digest(
            getattr(whole, checkpoint)
        )
    histories = [json.loads(run.metrics.read_text())["history"] for run in (whole, resumed)]
    for row in (*histories[0], *histories[1]):
        del row["images_per_second"]
    assert histories[0] == histories[1]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"head_init": "random"}, "head_init is random"),
        ({"class_weights": "balanced"}, "the fit would not balance the classes"),
        ({"balanced_sampling": True}, "the fit would not balance the classes"),
        ({"mixup": 0.2}, "the fit would not mix images"),
        ({"cutmix": 0.2}, "the fit would not mix images"),
        ({"strategy": "fc", "head_init": "ridge", "mixup": 0.2}, "the fit would not mix images"),
        ({"strategy": "fc", "head_init": "random"}, None),
    ],
)
def test_where_it_does_not_apply_the_head_stays_random_and_why_is_told(
    data: Path, changes: dict[str, Any], reason: str | None
) -> None:
    begun = Begun(config(data, **changes))
    before = {name: tensor.clone() for name, tensor in begun.head.items()}
    randomness = torch.get_rng_state()
    said = len(begun.reporter.messages)
    assert begun.start() is None
    assert all(torch.equal(tensor, before[name]) for name, tensor in begun.head.items())
    assert torch.equal(torch.get_rng_state(), randomness)
    expected = [] if reason is None else [f"the head starts with random weights: {reason}"]
    assert begun.reporter.messages[said:] == expected


@pytest.mark.parametrize(
    "changes",
    [
        {"views": 0},
        {"unfreeze": ("features.34",)},
        {"strategy": "fc", "head_init": "ridge"},
        {"strategy": "gradual", "head_init": "ridge", "views": 0},
        {"strategy": "full", "head_init": "ridge"},
    ],
)
def test_it_is_the_same_fit_whatever_trains_besides(data: Path, changes: dict[str, Any]) -> None:
    """To what the network makes of the first epoch's images without dropout."""
    begun, alone = Begun(config(data, **changes)), Begun(config(data))
    begun.trainer.model.model.load_state_dict(alone.trainer.model.model.state_dict())
    randomness = torch.get_rng_state()
    stats, expected = begun.start(), alone.start()
    assert torch.equal(torch.get_rng_state(), randomness)
    assert (stats.images, stats.correct) == (expected.images, expected.correct)
    for name, tensor in alone.head.items():
        assert torch.allclose(begun.head[name], tensor, rtol=1e-3, atol=1e-3), name


def test_many_images_are_fitted_to_in_part(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.probe.head_start.MAX_IMAGES", 20)
    begun = Begun(config(data, strategy="full", head_init="ridge"))
    assert begun.start().images == 20


def test_other_processes_take_the_main_ones_fit(data: Path) -> None:
    begun = Begun(config(data))
    weight, bias = np.full((3, 32), 0.5, np.float32), np.full(3, -1, np.float32)
    fitted = HeadFit(weight, bias, loss=0.1, correct=20, images=24)
    begun.processes = cast(Processes, SimpleNamespace(from_main=lambda make: (fitted, [])))
    begun.start()
    assert (begun.head["weight"] == 0.5).all()
    assert (begun.head["bias"] == -1).all()


def test_copies_are_left_out_together(tmp_path: Path) -> None:
    """Else an image would be judged by its copy, though nothing else tells the classes apart."""
    write_image_folder(tmp_path / "images", {"red": 12})
    for place, file in enumerate(sorted((tmp_path / "images" / "red").iterdir())):
        split = "train" if place < 8 else "val"
        folder = tmp_path / "data" / split / ("one", "other")[place % 2]
        folder.mkdir(parents=True, exist_ok=True)
        for copy in "ab":
            (folder / f"{copy}{file.name}").write_bytes(file.read_bytes())
    begun = Begun(config(tmp_path / "data", augment="none"))
    stats = begun.start()
    said = "16 copies or images of groups are left out together with their like"
    assert said in begun.reporter.messages
    assert (stats.images, fit_head(begun.design()).correct) == (16, 16)
    assert stats.correct < 16
