"""Disks that are full or read-only, images that vanish, weights that are no numbers: what the
command says (one line), and what is left.

In this process, with a thin VGG-19, as `vgg19` would: `cli.main.main`.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from testing.images import write_image_folder
from testing.small_vgg import thin_vgg19
from training.data.dataset import ImageDataset
from training.loop.checkpoint import load_checkpoint, weights_digest
from training.loop.run import Run
from training.loop.trainer import Trainer

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("thin_network")]

_MS_REMOUNT, _MS_RDONLY, _MNT_DETACH = 32, 1, 2
TRAIN = (
    "train", "--data", "data", "--weights", "none", "--strategy", "head", "--image-size", "32",
    "--batch-size", "6", "--config", "c.yaml",
)  # fmt: skip


@dataclass(frozen=True)
class Result:
    code: int
    stdout: str
    error: str


Vgg19 = Callable[..., Result]


@pytest.fixture
def vgg19(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    run_main: Callable[..., int],
) -> Vgg19:
    """Runs the command in a directory with images and a configuration that saves at every step."""
    monkeypatch.chdir(tmp_path)
    write_image_folder(tmp_path / "data", {"blue": 12, "red": 12})
    (tmp_path / "c.yaml").write_text("save_every_steps: 1\nunfreeze: [features.34]\n")

    def run(*arguments: str) -> Result:
        code = run_main(*arguments)
        out, err = capfd.readouterr()
        errors = [line for line in err.splitlines() if not line.startswith("warning: weights is")]
        if code:
            (error,) = errors
            assert error.startswith("error: ")
        return Result(code, out, "".join(f"{line}\n" for line in errors))

    return run


class Disk:
    """A small tmpfs of its own."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        path.mkdir()
        self._size = size
        self._mount(0, size)

    def grow(self) -> None:
        self._mount(_MS_REMOUNT, 10 * self._size)

    def make_read_only(self) -> None:
        self._mount(_MS_REMOUNT | _MS_RDONLY, self._size)

    def unmount(self) -> None:
        _libc.umount2(os.fsencode(self.path), _MNT_DETACH)  # a state may still be mapped

    def _mount(self, flags: int, size: int) -> None:
        options = f"size={size}".encode()
        if _libc.mount(b"tmpfs", os.fsencode(self.path), b"tmpfs", flags, options) != 0:
            pytest.skip(f"this user can't mount a tmpfs: {os.strerror(ctypes.get_errno())}")


_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    if sys.platform != "linux":
        pytest.skip("a tmpfs is Linux's")
    disk = Disk(tmp_path / "disk", 4_000_000)
    yield disk
    disk.unmount()


def before_step(number: int, do: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have something happen before the `number`th step from now."""
    step, steps = Trainer.step, 0

    def stepping(trainer: Trainer, *arguments: Any, **options: Any) -> int:
        nonlocal steps
        steps += 1
        if steps == number:
            do()
        return step(trainer, *arguments, **options)

    monkeypatch.setattr(Trainer, "step", stepping)


def fill(disk: Disk) -> None:
    free = shutil.disk_usage(disk.path).free
    (disk.path / "other").write_bytes(bytes(free - 100_000))


def test_a_full_disk_stops_training_which_goes_on_when_there_is_room(
    vgg19: Vgg19, disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert vgg19(*TRAIN, "--epochs", "2", "--output", "whole").code == 0
    with monkeypatch.context() as patch:
        before_step(5, lambda: fill(disk), patch)
        full = vgg19(*TRAIN, "--epochs", "2", "--output", "disk/run")
    assert full.code == 1
    assert "can't be written" in full.error
    assert "make room, then continue with 'vgg19 train --resume'" in full.error
    run = Run(tmp_path / "disk" / "run")
    assert [path.name for path in run.state.parent.iterdir() if path.name[0] == "."] == []
    disk.grow()
    assert vgg19("train", "--resume", "disk/run").code == 0
    for name in ("best", "last"):
        whole = getattr(Run(tmp_path / "whole"), name)
        assert weights_digest(getattr(run, name)) == weights_digest(whole)


def test_a_full_disk_from_the_start_leaves_nothing(
    vgg19: Vgg19, disk: Disk, tmp_path: Path
) -> None:
    fill(disk)
    (disk.path / "more").write_bytes(bytes(shutil.disk_usage(disk.path).free))
    full = vgg19(*TRAIN, "--epochs", "1", "--output", "disk/run")
    assert full.code == 1
    assert "No space left on device" in full.error
    assert "disk/" in full.error
    assert {path.name for path in disk.path.iterdir()} == {"other", "more"}


def test_a_directory_that_is_read_only(vgg19: Vgg19, disk: Disk) -> None:
    disk.make_read_only()
    result = vgg19(*TRAIN, "--epochs", "1", "--output", "disk/run")
    assert (result.code, result.error) == (1, "error: disk/run: Read-only file system\n")


def test_a_directory_that_becomes_read_only(
    vgg19: Vgg19, disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        before_step(2, disk.make_read_only, patch)
        result = vgg19(*TRAIN, "--epochs", "1", "--output", "disk/run")
    state = "disk/run/checkpoints/state.pt"
    assert (result.code, result.error) == (1, f"error: {state}: Read-only file system\n")
    disk.grow()  # and writable again
    assert vgg19("train", "--resume", "disk/run").code == 0


def test_an_image_that_vanishes_in_mid_epoch(
    vgg19: Vgg19, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was saved before: what was done until then is kept and gone on from."""
    (tmp_path / "c.yaml").write_text("unfreeze: [features.0]\n")
    assert vgg19(*TRAIN, "--epochs", "2", "--output", "whole").code == 0
    read = ImageDataset._read
    vanish = False

    def vanishing(dataset: ImageDataset, index: int, decode: Any) -> Any:
        nonlocal vanish
        if vanish:
            dataset.samples[index].path.rename(tmp_path / "elsewhere.png")
            vanish = False
        return read(dataset, index, decode)

    def from_now_on() -> None:
        nonlocal vanish
        vanish = True

    with monkeypatch.context() as patch:
        patch.setattr(ImageDataset, "_read", vanishing)
        before_step(2, from_now_on, patch)
        result = vgg19(*TRAIN, "--epochs", "2", "--output", "run")
    assert result.code == 1
    gone = next(path for path in _files(tmp_path / "whole") if not path.exists())
    assert result.error == (
        f"error: {gone} can no longer be read (No such file or directory); put it back, then "
        "continue with 'vgg19 train --resume run'\n"
    )
    missing = vgg19("train", "--resume", "run")
    assert "have changed since run was begun" in missing.error
    (tmp_path / "elsewhere.png").rename(gone)
    resumed = vgg19("train", "--resume", "run")
    assert resumed.code == 0
    assert "resuming in epoch 1, batch 3" in resumed.stdout
    for name in ("best", "last"):
        digests = {weights_digest(getattr(Run(tmp_path / n), name)) for n in ("run", "whole")}
        assert len(digests) == 1


def _files(run: Path) -> list[Path]:
    """The images of a run, as they are named in messages."""
    content = Run(run).read_json(Run(run).data)
    return [Path("data") / file["path"] for file in content["files"]]


class TestNumbersThatAreNone:
    def poison(self, monkeypatch: pytest.MonkeyPatch, after_step: int) -> None:
        """A step whose loss is a number, and which spoils the weights."""
        step, steps = Trainer.step, 0

        def stepping(trainer: Trainer, *arguments: Any, **options: Any) -> int:
            nonlocal steps
            size = step(trainer, *arguments, **options)
            steps += 1
            if steps == after_step:
                with torch.no_grad():
                    trainer.model.model.get_parameter("classifier.6.weight").fill_(float("nan"))
            return size

        monkeypatch.setattr(Trainer, "step", stepping)

    def test_a_rate_that_is_too_high(self, vgg19: Vgg19, tmp_path: Path) -> None:
        (tmp_path / "c.yaml").write_text("optimizer: sgd\nhead_init: random\n")
        result = vgg19(*TRAIN, "--epochs", "3", "--learning-rate", "1e38", "--output", "run")
        assert result.code == 1
        assert "Lower the learning rate (--learning-rate; 'vgg19 find-lr'" in result.error
        assert not (tmp_path / "run").exists()  # there was nothing good to keep

    def test_spoilt_weights_don_t_replace_the_last_good_state(
        self, vgg19: Vgg19, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = Run(tmp_path / "run")
        self.poison(monkeypatch, after_step=4)
        result = vgg19(*TRAIN, "--epochs", "2", "--output", "run")
        assert result.code == 1
        assert "weights contain NaN or Inf in epoch 2, after batch 1" in result.error
        model, _ = load_checkpoint(run.best)
        assert all(bool(weight.isfinite().all()) for weight in model.parameters())
        monkeypatch.undo()
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("models.network.vgg19.vgg19", thin_vgg19)
        assert vgg19("evaluate", "run").code == 0  # the best one of the run that was interrupted
        assert vgg19("train", "--resume", "run").code == 0

    def test_nor_the_best_weights(
        self, vgg19: Vgg19, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "c.yaml").write_text("unfreeze: [features.34]\n")
        self.poison(monkeypatch, after_step=6)  # the last one of the second epoch
        result = vgg19(*TRAIN, "--epochs", "3", "--output", "run")
        assert result.code == 1
        assert "the validation loss is nan after epoch 2; its weights are not saved" in result.error
        model, _ = load_checkpoint(Run(tmp_path / "run").best)
        assert all(bool(weight.isfinite().all()) for weight in model.parameters())
