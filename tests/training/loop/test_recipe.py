from __future__ import annotations

import hashlib
import json
import re
import shutil
import signal
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from models.bundle.manifest import read_manifest
from models.bundle.metrics import weaknesses
from models.bundle.writer import write_manifest
from models.errors import UserError
from models.imaging.image import DECODE_RULE
from models.monitoring.reference import Reference
from models.network.build import build
from models.network.vgg19 import VGG19
from models.network.weights import imagenet_file
from models.registry import store
from testing.bundles import tiny_spec
from testing.images import coloured_pixels, encode, write_image_folder
from training.data.decoding import decoding
from training.export.bundle import export_run
from training.features.batches import CachedFeatures
from training.loop import recipe
from training.loop.checkpoint import load_checkpoint, save_checkpoint, weights_digest
from training.loop.checkpointer import Checkpointer
from training.loop.config import TrainConfig, load_config
from training.loop.context import TrainContext
from training.loop.history import Epoch, should_stop
from training.loop.recipe import fine_tune, resume_run
from training.loop.reproduce import _recorded, default_output, input_differences, reproduce
from training.loop.run import Run, RunError, initial_weights_sha256, record_provenance
from training.loop.setup import unfreeze
from training.loop.signals import Terminated
from training.loop.state import StateError
from training.loop.trainer import Trainer, TrainingError
from training.reporter import SilentReporter

pytestmark = pytest.mark.slow


def config(tmp_path: Path, **changes: Any) -> TrainConfig:
    if not (tmp_path / "data").exists():
        write_image_folder(tmp_path / "data", {"blue": 6, "green": 6, "red": 6})
    values = {
        "data": tmp_path / "data",
        "output": tmp_path / "run",
        "weights": "none",
        "strategy": "head",
        "head_init": "random",  # an epoch begins with its first step
        "image_size": 32,
        "batch_size": 8,
        "epochs": 1,
    }
    return load_config(None, values | changes)


def epoch(number: int, val_accuracy: float, val_loss: float = 0.5) -> Epoch:
    return Epoch(number, 0, 0, 0, val_loss, val_accuracy, 0, 1)


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
    assert {sum(counts) for counts in reference.counts.values()} == {reference.images}
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


@pytest.mark.parametrize(("image_size", "heat_maps"), [(32, 0), (64, 4)])
@pytest.mark.usefixtures("thin_network")
def test_mistakes_are_shown_as_pictures_with_escaped_names(
    tmp_path: Path, image_size: int, heat_maps: int
) -> None:
    data = tmp_path / "data"
    for split, first in (("train", 0), ("test", 4)):
        for label in ("a&b", "c"):
            (data / split / label).mkdir(parents=True)
            for seed in range(4):  # the same images under both labels: half must be wrong
                pixels = coloured_pixels(first + seed)
                (data / split / label / f"<{seed}>.png").write_bytes(encode(pixels))
    run = fine_tune(config(tmp_path, image_size=image_size), SilentReporter())
    page = run.report.read_text()
    assert page.count("<figure>") == 4
    assert page.count('alt="what supports ') == heat_maps  # at 32 px a map has one value
    assert ("(Grad-CAM)" in page) == bool(heat_maps)
    assert "&lt;0&gt;.png" in page
    assert "<0>.png" not in page
    assert "a&amp;b" in page


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


def test_the_best_epoch_has_the_accuracy_then_the_loss() -> None:
    epochs = [epoch(1, 0.5, 0.1), epoch(2, 0.8, 0.9), epoch(3, 0.8, 0.4)]
    assert max(epochs, key=lambda row: row.score).epoch == 3


def test_early_stopping_waits_as_long_as_it_says() -> None:
    history = [epoch(1, 0.5), epoch(2, 0.8), epoch(3, 0.7)]
    assert not should_stop(history, None)
    assert not should_stop(history, 2)
    assert should_stop([*history, epoch(4, 0.8)], 2)
    assert not should_stop([*history, epoch(4, 0.9)], 2)
    assert not should_stop([], 1)


def signal_at(moment: str, patch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the second epoch, or after it."""
    owner, name = {
        "training": (Trainer, "step"),
        "computing features": (CachedFeatures, "_fill"),
        "evaluating": (TrainContext, "predict"),
        "finish": (recipe, "write_report"),
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

    patch.setattr("training.loop.recipe.unfreeze", count)
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
        monkeypatch.setattr("training.loop.recipe._judge_epoch", lambda: None)
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
class TestReproduce:
    def test_the_same_inputs_give_the_same_weights_and_other_images_are_named(
        self, tmp_path: Path
    ) -> None:
        run = fine_tune(config(tmp_path, head_init="auto"), SilentReporter())
        same = reproduce(str(run.path), tmp_path / "again1", SilentReporter())
        assert same.identical
        assert same.differences == []
        assert weights_digest(Run(tmp_path / "again1").best) == weights_digest(run.best)

        (tmp_path / "data" / "red" / "new.png").write_bytes(encode(coloured_pixels(99, "red")))
        changed = reproduce(str(run.path), tmp_path / "again2", SilentReporter())
        assert not changed.identical
        (difference,) = changed.differences
        assert difference.startswith("data: the fingerprint is ")

    @pytest.mark.usefixtures("thin_network")
    @pytest.mark.parametrize("change", ["other", "gone"])
    def test_a_changed_file_of_weights_is_named(self, tmp_path: Path, change: str) -> None:
        path = tmp_path / "start.pth"
        torch.manual_seed(1)
        torch.save(build(VGG19, "none", num_classes=4).state_dict(), path)
        run = fine_tune(config(tmp_path, weights=str(path)), SilentReporter())
        assert reproduce(str(run.path), tmp_path / "again3", SilentReporter()).identical
        if change == "gone":
            path.unlink()
            with pytest.raises(UserError, match=f"--weights {path}: no such file"):
                reproduce(str(run.path), tmp_path / "again4", SilentReporter())
            return
        torch.manual_seed(2)
        torch.save(build(VGG19, "none", num_classes=4).state_dict(), path)
        changed = reproduce(str(run.path), tmp_path / "again5", SilentReporter())
        assert not changed.identical
        (difference,) = changed.differences
        assert re.fullmatch(
            f"weights: the SHA-256 of {path} is [0-9a-f]{{12}}, was [0-9a-f]{{12}}", difference
        )

    def test_the_hash_of_downloaded_weights_is_recorded(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        assert initial_weights_sha256("vgg19", "imagenet") is None  # not downloaded yet
        imagenet_file(VGG19).parent.mkdir(parents=True)
        imagenet_file(VGG19).write_bytes(b"weights")
        recorded = record_provenance(config(tmp_path, weights="imagenet"), "f" * 64)
        assert recorded.initial_weights_sha256 == hashlib.sha256(b"weights").hexdigest()
        assert recorded.decoding == decoding()

    def test_runs_from_before_the_weights_hash_say_nothing_of_it(self, tmp_path: Path) -> None:
        recorded = record_provenance(config(tmp_path), "f" * 64)
        assert recorded.initial_weights_sha256 is None
        old = recorded.model_copy(update={"training_config": {"weights": "gone.pth"}})
        assert input_differences(old, "f" * 64) == []

    def test_versions_and_hardware_are_compared(self, tmp_path: Path) -> None:
        recorded = record_provenance(config(tmp_path), "f" * 64)
        assert input_differences(recorded, "f" * 64) == []
        other = recorded.model_copy(
            update={
                "packages": recorded.packages | {"torch": "1.0"},
                "hardware": recorded.hardware | {"threads": "64"},
                "decoding": recorded.decoding | {"rule": "0"},
            }
        )
        package, pixels, hardware = input_differences(other, "f" * 64)
        assert pixels == f"decoding: rule is {DECODE_RULE}, was 0"
        assert package == f"package torch: the version is {version('torch')}, was 1.0"
        assert hardware == f"hardware: threads is {torch.get_num_threads()}, was 64"

    def test_a_registered_model_brings_what_it_was_trained_from(
        self, store_home: Path, tiny_bundle: Path
    ) -> None:
        tag = store.register(tiny_bundle)
        with pytest.raises(RunError, match="without the digest of its weights"):
            _recorded(tag)
        provenance = read_manifest(tiny_bundle).provenance
        write_manifest(tiny_bundle, provenance.model_copy(update={"weights_sha256": "a" * 64}))
        recorded, digest = _recorded(store.register(tiny_bundle))
        assert digest == "a" * 64
        assert recorded.training_config == provenance.training_config

    def test_the_new_run_has_a_place_of_its_own(self, tmp_path: Path) -> None:
        run = tmp_path / "runs" / "flowers"
        run.mkdir(parents=True)
        assert default_output(str(run)) == tmp_path / "runs" / "flowers-reproduced"
        assert default_output("vgg19:2026-1") == Path("vgg19-2026-1-reproduced")

    def test_no_such_run(self, tmp_path: Path) -> None:
        with pytest.raises(RunError, match="is not a run"):
            reproduce(str(tmp_path), tmp_path / "again6", SilentReporter())


@pytest.mark.usefixtures("thin_network")
def test_a_model_that_is_of_no_use_is_said_to_be(tmp_path: Path) -> None:
    write_image_folder(tmp_path / "data", {"blue": 24, "red": 6})
    reporter = SilentReporter()
    run = fine_tune(config(tmp_path, learning_rate=1e-12), reporter)
    before, after = reporter.warnings[:2], reporter.warnings[2:]
    assert before[0].startswith("weights is none and strategy head leaves 18 of 19 layers as they")
    assert "classes have fewer than 10 images" in before[1]
    assert after[0].startswith("it is no better than always answering 'blue'")
    assert after[1].startswith("it never answers '")
    page = run.report.read_text()
    assert page.count('<p class="warning">It ') == 2
    metrics = json.loads(run.metrics.read_text())["held_out"]
    assert weaknesses(metrics) == after


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
