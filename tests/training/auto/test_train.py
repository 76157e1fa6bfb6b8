from __future__ import annotations

import json
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from models.errors import UserError
from testing.images import write_image_folder
from training.auto import train as room
from training.auto.record import Record
from training.auto.train import can_resume, resume, train
from training.export.bundle import export_run
from training.loop.checkpoint import weights_digest
from training.loop.config import TrainConfig
from training.loop.config_file import ConfigError, load_config, read_config
from training.loop.recipe import fine_tune
from training.loop.reproduce import reproduce
from training.loop.run import Run
from training.loop.signals import Terminated
from training.loop.trainer import Trainer
from training.reporter import SilentReporter

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("thin_network")]


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """Images, and weights that have learned a little of others like them."""
    with (
        tempfile.TemporaryDirectory() as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        from testing.small_vgg import thin_vgg19

        patch.setattr("models.network.vgg19.vgg19", thin_vgg19)
        root = Path(folder)
        write_image_folder(root / "data", {"blue": 30, "green": 30, "red": 30})
        values = {
            "data": write_image_folder(root / "other", {"blue": 9, "red": 9}, first_seed=900),
            "output": root / "pretrained", "weights": "none", "strategy": "full",
            "image_size": 32, "epochs": 2, "batch_size": 8, "cache_dir": root / "cache",
        }  # fmt: skip
        fine_tune(load_config(None, values), SilentReporter())
        yield root


def config(place: Path, output: Path, **changes: Any) -> TrainConfig:
    values = {
        "data": place / "data", "output": output, "strategy": "auto", "image_size": 32,
        "weights": place / "pretrained/checkpoints/best.safetensors", "batch_size": 16,
        "epochs": 2, "mixed_precision": "no", "cache_dir": place / "cache", "val_fraction": 0.3,
        "learning_rate": 3e-3,
    }  # fmt: skip
    return load_config(None, values | changes)


def record(run: Run) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(run.auto.read_text())
    for stage in content["stages"]:
        del stage["seconds"]
    return content


def test_the_run_is_a_usual_one_and_says_what_was_tried(place: Path, tmp_path: Path) -> None:
    reporter = SilentReporter()
    run = train(config(place, tmp_path / "run"), reporter)
    found = record(run)
    chosen = found["stages"][found["chosen"]]
    recorded = read_config(run.config)
    assert (recorded.strategy, recorded.unfreeze) == (chosen["strategy"], tuple(chosen["unfreeze"]))
    assert recorded.output == run.path
    assert found["stages"][0]["name"] == found["plan"][0]["name"]
    assert len(found["depths"]) == 7
    assert not (run.path / "stages").exists()
    assert not run.state.exists()
    metrics = run.read_json(run.metrics)
    assert metrics["auto"]["why"] == found["why"]
    assert f"{chosen['name']} is kept, since {found['why']}" in " ".join(reporter.messages)

    page = run.report.read_text()
    bundle, _ = export_run(run)
    card = (bundle.path / "README.md").read_text()
    for stage in found["stages"]:
        for document in (page, card):
            assert f"{stage['val_accuracy']:.1%}" in document
            assert stage["name"] in document
    assert reproduce(str(run.path), tmp_path / "again", SilentReporter()).identical


def _steps(monkeypatch: pytest.MonkeyPatch, stop_at: int) -> None:
    step: Any = Trainer.step
    calls = 0

    def stopping(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == stop_at:
            signal.raise_signal(signal.SIGTERM)
            options |= {"stop_requested": True}
        return step(*arguments, **options)

    monkeypatch.setattr(Trainer, "step", stopping)


def test_stopped_and_resumed_ends_bit_identical(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(config(place, tmp_path / "whole"), SilentReporter())
    monkeypatch.setattr(Record, "next", _never_enough(Record.next, 2))
    path = tmp_path / "run"
    for stop_at in (3, 8):  # in the first stage, and in the next
        with monkeypatch.context() as patch:
            _steps(patch, stop_at)
            with pytest.raises(Terminated, match=f"'vgg19 train --resume {path}'"):
                resume(path, SilentReporter()) if path.exists() else train(
                    config(place, path), SilentReporter()
                )
    run = resume(path, SilentReporter())
    assert len(record(run)["stages"]) >= 2
    if record(run)["chosen"] == record(whole)["chosen"]:
        assert weights_digest(run.best) == weights_digest(whole.best)


def _never_enough(next_: Any, stages: int) -> Any:
    """Tries so many stages, whether they pay or not."""

    def wanted(self: Any) -> Any:
        count = len(self.stages)
        return self.plan[count] if count < stages else next_(self)

    return wanted


@pytest.mark.parametrize(
    "moment",
    [
        "provenance",
        *(
            pytest.param(one, marks=pytest.mark.exhaustive)
            for one in ("checkpoints", "config", "stages")
        ),
    ],
)
def test_killed_while_the_files_move_it_goes_on(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    class Killed(BaseException):
        pass

    def kill(*_: Any, **__: Any) -> Any:
        raise Killed

    owner, name = {
        "checkpoints": (room, "read_config"),
        "provenance": (room, "write_json"),
        "config": (room, "staged_file"),
        "stages": (room, "resume_run"),
    }[moment]
    path = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, kill)
        with pytest.raises(Killed):
            train(config(place, path, epochs=1), SilentReporter())
    run = resume(path, SilentReporter())
    assert run.report.exists()
    assert not (path / "stages").exists()
    assert read_config(run.config).strategy != "auto"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unfreeze": ("features.34",)}, "strategy auto finds out what to unfreeze"),
        ({"unfreeze_epochs": (2,)}, "which is for strategy gradual, and strategy is auto"),
        ({"weights": "nothing.pth"}, "no such file"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_made(
    place: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        train(config(place, tmp_path / "run", **changes), SilentReporter())
    assert not (tmp_path / "run").exists()


def test_processes_that_train_together_are_refused(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="auto trains in one process; start it without torchrun"):
        train(config(place, tmp_path / "run"), SilentReporter())


def test_a_run_that_fails_when_it_goes_on_stays(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where its first stage has no checkpoint yet: another try may do."""

    def fail(*_: Any, **__: Any) -> Any:
        raise UserError("the GPU is busy")

    path = tmp_path / "run"
    with monkeypatch.context() as patch:
        _steps(patch, 1)
        with pytest.raises(Terminated):
            train(config(place, path, head_init="random"), SilentReporter())
    shutil.rmtree(path / "stages")  # as where it was killed before there was any
    monkeypatch.setattr(Trainer, "step", fail)
    with pytest.raises(UserError, match="the GPU is busy"):
        resume(path, SilentReporter())
    assert can_resume(Run(path))


def test_a_first_stage_that_fails_leaves_nothing(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise UserError("no")

    monkeypatch.setattr(Trainer, "step", fail)
    with pytest.raises(UserError, match="no"):
        train(config(place, tmp_path / "run", head_init="random"), SilentReporter())
    assert not (tmp_path / "run").exists()
