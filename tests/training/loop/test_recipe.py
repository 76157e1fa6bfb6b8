from __future__ import annotations

import json
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from models.monitoring.reference import Reference
from models.network.build import build
from models.network.vgg19 import VGG19
from testing.bundles import tiny_spec
from testing.images import coloured_pixels, encode, write_image_folder
from tests.training.loop.conftest import config
from training.export.bundle import export_run
from training.features.batches import CachedFeatures
from training.loop import finish
from training.loop.checkpoint import load_checkpoint, save_checkpoint, weights_digest
from training.loop.checkpointer import Checkpointer
from training.loop.config import TrainConfig
from training.loop.context import TrainContext
from training.loop.recipe import fine_tune, resume_run
from training.loop.run import Run, RunError
from training.loop.setup import unfreeze
from training.loop.signals import Terminated
from training.loop.state import StateError
from training.loop.trainer import Trainer, TrainingError
from training.reporter import SilentReporter

pytestmark = pytest.mark.slow


def test_fc_from_a_state_dict_leaves_the_convolutions_and_trains_the_rest(tmp_path: Path) -> None:
    torch.manual_seed(9)
    start = build(VGG19, "none", num_classes=1000)
    save_checkpoint(start.state_dict(), tiny_spec(), tmp_path / "start.safetensors")
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
    table = reporter.messages[1]
    assert "139,582,531  119,558,147 train" in table
    epochs = [line for line in reporter.messages if line.startswith("epoch ")]
    assert len(epochs) == 1
    assert re.fullmatch(
        r"epoch 1/1  train loss \d\.\d{3} acc +[\d.]+%  val loss \d\.\d{3} acc +[\d.]+%  best",
        epochs[0],
    )
    assert max(map(len, (*epochs, *table.splitlines()))) <= 80
    assert table.splitlines()[-2].split() == ["classifier.6", "12,291", "yes", "0.0001"]
    assert table.splitlines()[-3].split() == ["classifier.3", "16,781,312", "yes", "1e-05"]


@pytest.mark.usefixtures("thin_network")
def test_gradual_unfreezes_the_named_blocks_at_the_named_epochs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups: list[set[str]] = []
    step = Trainer.step

    def spy(trainer: Trainer, *arguments: Any, **options: Any) -> int:
        groups.append({group["name"] for group in trainer.optimizer.param_groups})
        return step(trainer, *arguments, **options)

    monkeypatch.setattr(Trainer, "step", spy)
    reporter = SilentReporter()
    fine_tune(
        config(
            tmp_path, strategy="gradual", epochs=3, unfreeze_epochs=(2, 3), batch_size=12,
            optimizer="sgd",
        ),
        reporter,
    )  # fmt: skip
    fc = {"classifier.0", "classifier.3", "classifier.6"}
    blocks = [set(block) for block in VGG19.blocks]
    assert groups == [fc, fc | blocks[0], fc | blocks[0] | blocks[1]]  # a batch an epoch
    assert f"epoch 2: unfrozen {', '.join(VGG19.blocks[0])}" in reporter.messages
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert [row["layers"] for row in metrics["history"]] == [3, 7, 11]


@pytest.mark.usefixtures("thin_network")
def test_what_a_run_leaves(tmp_path: Path) -> None:
    """Report, pictures, calibration and TensorBoard's numbers, in one run."""
    reporter = SilentReporter()
    run = fine_tune(config(tmp_path, epochs=2, tracker="tensorboard"), reporter)
    metrics = json.loads(run.metrics.read_text())
    assert set(metrics["calibration"]) == {
        "temperature",
        "fitted_on",
        "expected_calibration_error_before",
        "expected_calibration_error",
    }
    assert {path.name for path in run.report_pictures.iterdir()} == {
        "curves.png",
        "confusion.png",
        "learning_rate.png",
        "reliability.png",
    }
    reference = Reference.read(run.reference)
    data = json.loads(run.data.read_text())
    assert reference.images == sum(file["split"] == "val" for file in data["files"]) > 0
    sums = {name: sum(counts) for name, counts in reference.counts.items()}
    assert sums.pop("quantization") == 0  # no JPEG among them
    assert set(sums.values()) == {reference.images}
    accepted = metrics["acceptance"]["val"]["accepted"]  # of all of them, since they are few
    assert reference.counts["accepted"][1] == pytest.approx(accepted * reference.images)
    page = run.report.read_text()
    assert page.count("data:image/png;base64,") >= 4
    assert "http://" not in page
    assert "https://" not in page  # self-contained
    for label in ("blue", "green", "red"):
        assert f"<td>{label}</td>" in page
    assert not run.state.exists()
    events = EventAccumulator(str(run.path / "vgg19")).Reload()
    logged = [event.value for event in events.Scalars("val_loss")]
    assert logged == pytest.approx([row["val_loss"] for row in metrics["history"]])
    with pytest.raises(RunError, match="is finished"):
        resume_run(run.path, SilentReporter())


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.usefixtures("thin_network")
def test_nothing_is_left_of_a_run_without_a_finished_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Trainer, "step", fail)
    with pytest.raises(error):
        fine_tune(config(tmp_path), SilentReporter())
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("thin_network")
def test_nothing_is_left_where_a_signal_comes_as_the_run_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Removing the directory then failed, since it was no longer empty."""
    rename = Path.rename

    def rename_and_end(self: Path, target: Path) -> None:
        rename(self, target)
        if target == tmp_path / "run":
            raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", rename_and_end)
    with pytest.raises(KeyboardInterrupt):
        fine_tune(config(tmp_path), SilentReporter())
    assert not (tmp_path / "run").exists()


def test_an_existing_run_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "file").touch()
    monkeypatch.setattr("training.loop.recipe.load_data", lambda *_: pytest.fail("data was read"))
    with pytest.raises(RunError, match="exists already"):
        fine_tune(config(tmp_path), SilentReporter())


def test_a_tracker_that_is_not_installed_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.loop.recipe.find_spec", lambda _: None)
    with pytest.raises(TrainingError, match="tracker is 'wandb', which is not installed"):
        fine_tune(config(tmp_path, tracker="wandb"), SilentReporter())
    assert not (tmp_path / "run").exists()


def signal_at(moment: str, patch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the second epoch, or after it."""
    owner, name = {
        "training": (Trainer, "step"),
        "computing features": (CachedFeatures, "_fill"),
        "evaluating": (TrainContext, "predict"),
        "finish": (finish, "write_report"),
    }[moment]
    function: Any = getattr(owner, name)
    epochs = 0

    def count(trainer: Trainer, context: Any, epoch: int) -> None:
        nonlocal epochs
        epochs = epoch
        unfreeze(trainer, context, epoch)

    def interrupted(*arguments: Any, **options: Any) -> Any:
        if epochs == 2:
            signal.raise_signal(signal.SIGINT)
            if moment == "training":
                options["stop_requested"] = True
        return function(*arguments, **options)

    patch.setattr("training.loop.epochs.unfreeze", count)
    patch.setattr(owner, name, interrupted)


@pytest.mark.usefixtures("thin_network")
class TestResume:
    """With everything that has a state: optimizer, average, dropout, mixup,
    augmentation, schedule, and layers that unfreeze on the way."""

    def everything(self, tmp_path: Path, output: str) -> TrainConfig:
        return config(
            tmp_path, output=tmp_path / output, strategy="head", unfreeze=("features.34",),
            epochs=2, batch_size=6, ema_decay=0.9, mixup=0.4, augment="trivial",
            balanced_sampling=True, class_weights="balanced",
        )  # fmt: skip

    def test_stopped_anywhere_and_resumed_ends_bit_identical(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = fine_tune(self.everything(tmp_path, "whole"), SilentReporter())
        step, steps = Trainer.step, 0

        def stopping(trainer: Trainer, batch: Any, state: Any, **options: Any) -> int:
            nonlocal steps
            steps += 1
            if steps in (2, 4):  # inside the first epoch, and inside the second
                signal.raise_signal(signal.SIGTERM)
                return step(trainer, batch, state, stop_requested=True)
            return step(trainer, batch, state, **options)

        monkeypatch.setattr(Trainer, "step", stopping)
        with pytest.raises(Terminated, match="continue with 'vgg19 train --resume"):
            fine_tune(self.everything(tmp_path, "stopped"), SilentReporter())
        with pytest.raises(Terminated):
            resume_run(tmp_path / "stopped", SilentReporter())
        reporter = SilentReporter()
        resumed = resume_run(tmp_path / "stopped", reporter)

        assert any(
            message.startswith("resuming in epoch 2, batch") for message in reporter.messages
        )
        for name in ("best", "last"):
            assert weights_digest(getattr(resumed, name)) == weights_digest(getattr(whole, name))
        histories = [json.loads(run.metrics.read_text())["history"] for run in (whole, resumed)]
        for row in (*histories[0], *histories[1]):
            del row["images_per_second"]
        assert histories[0] == histories[1]

    @pytest.mark.parametrize(
        "moment",
        [
            "training",
            "finish",
            pytest.param("computing features", marks=pytest.mark.exhaustive),
            pytest.param("evaluating", marks=pytest.mark.exhaustive),
        ],
    )
    def test_it_needs_nothing_but_the_run_and_its_images(
        self, moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Begun with relative paths, behind a link, and a file of weights; all else is gone then.

        Stopped in its second epoch, where another layer enters the optimizer.
        """
        here, elsewhere, disk = (tmp_path / name for name in ("here", "elsewhere", "disk"))
        for folder in (here, elsewhere, disk / "runs"):
            folder.mkdir(parents=True)
        (here / "runs").symlink_to(disk / "runs")
        monkeypatch.chdir(here)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        torch.manual_seed(9)
        save_checkpoint(
            build(VGG19, "none", 7).state_dict(), tiny_spec(), Path("start.safetensors")
        )
        begun = config(
            tmp_path, data="../data", output="runs/stopped", weights="start.safetensors",
            strategy="gradual", unfreeze_epochs=(2,), epochs=2, batch_size=6,
        )  # fmt: skip
        whole = fine_tune(begun.model_copy(update={"output": here / "whole"}), SilentReporter())
        shutil.rmtree(tmp_path / "cache")
        with monkeypatch.context() as patch:
            signal_at(moment, patch)
            words = r"interrupted; continue with 'vgg19 train --resume runs/stopped'"
            with pytest.raises(Terminated, match=words) as stopped:
                fine_tune(begun, SilentReporter())
        assert stopped.value.exit_code == 130
        (here / "start.safetensors").unlink()
        monkeypatch.chdir(elsewhere)

        resumed = resume_run(here / "runs" / "stopped", SilentReporter(), {"num_workers": 0})

        assert resumed.report.is_file()
        assert not resumed.state.exists()
        for name in ("best", "last"):
            digests = [weights_digest(getattr(run, name)) for run in (Run(here / "whole"), resumed)]
            assert digests[0] == digests[1], name
        assert whole.path == here / "whole"
        assert list(elsewhere.iterdir()) == []

    def test_where_nothing_was_saved_it_begins_anew(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object, **__: object) -> None:
            raise RuntimeError

        run = Run(tmp_path / "run")
        with monkeypatch.context() as patch:
            patch.setattr(Checkpointer, "finish", fail)  # one good epoch, which isn't old enough
            patch.setattr("training.loop.run_directory.shutil.rmtree", lambda *_, **__: None)
            with pytest.raises(RuntimeError):
                fine_tune(config(tmp_path), SilentReporter())
        with pytest.raises(RunError, match=f"before its end; continue with '.*--resume {run.path}"):
            export_run(run)
        whole = fine_tune(config(tmp_path, output=tmp_path / "whole"), SilentReporter())
        resumed = resume_run(run.path, SilentReporter())
        assert weights_digest(resumed.best) == weights_digest(whole.best)

    def test_a_damaged_state_and_changed_images_are_errors(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = Run(tmp_path / "run")
        monkeypatch.setattr("training.loop.epochs._judge_epoch", lambda: None)
        with pytest.raises(TypeError):
            fine_tune(config(tmp_path, save_every_steps=1), SilentReporter())
        assert run.state.exists()  # so the directory stays
        monkeypatch.undo()
        run.state.write_bytes(b"rubbish")
        with pytest.raises(StateError, match="is damaged"):
            resume_run(run.path, SilentReporter())
        (tmp_path / "data" / "red" / "new.png").write_bytes(encode(coloured_pixels(99, "red")))
        with pytest.raises(RunError, match="have changed since"):
            resume_run(run.path, SilentReporter())


@pytest.mark.usefixtures("thin_network")
def test_other_images_are_found_anywhere_below_and_lost_ones_are_told(tmp_path: Path) -> None:
    others = tmp_path / "others"
    write_image_folder(others / "train", {"green": 2})
    (others / "cut.png").write_bytes(b"\x89PNG")
    (others / "gone.png").symlink_to(others / "nowhere.png")
    (others / "sound.ogg").write_bytes(b"OggS")
    reporter = SilentReporter()
    run = fine_tune(config(tmp_path, ood_data=str(others)), reporter)
    assert json.loads(run.metrics.read_text())["acceptance"]["unlike"]["images"] == 2
    (warning,) = (line for line in reporter.warnings if "OOD" in line)
    assert (
        warning == f"2 OOD images are left out, the first is {others}/gone.png: is a dangling link"
    )
