from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from models.network.build import build
from models.network.vgg19 import VGG19
from testing.bundles import tiny_spec
from training.loop.checkpoint import (
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
    staged_weights,
)

pytestmark = pytest.mark.slow


@pytest.mark.usefixtures("thin_network")
def test_saved_and_loaded_bit_for_bit(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = build(VGG19, "none", num_classes=3)
    path = tmp_path / "checkpoints" / "best.safetensors"
    save_checkpoint(model.state_dict(), tiny_spec(), path)

    loaded, spec = load_checkpoint(path)

    assert spec == tiny_spec()
    assert not loaded.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert [file.name for file in path.parent.iterdir()] == ["best.safetensors"]

    content = path.read_bytes()
    path.write_bytes(content[:-1000])
    with pytest.raises(CheckpointError, match=r"best\.safetensors is damaged"):
        load_checkpoint(path)


def test_an_interrupted_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.safetensors"
    path.write_bytes(b"old")

    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("training.loop.checkpoint.save_file", fail)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(build(VGG19, "none", num_classes=3).state_dict(), tiny_spec(), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def files_end_at_1_mb() -> Iterator[None]:
    """Writing on fails, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("write", [save_file, torch.save], ids=["safetensors", "torch"])
@pytest.mark.usefixtures("files_end_at_1_mb")
def test_a_full_disk_is_said_plainly_and_leaves_the_old_file(
    tmp_path: Path, write: Callable[..., None]
) -> None:
    path = tmp_path / "best.safetensors"
    path.write_bytes(b"old")
    with (
        pytest.raises(CheckpointError, match=r"can't be written .* MB left: make room"),
        staged_weights(path) as staging,
    ):
        write({"weight": torch.zeros(1_000_000)}, staging)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        load_checkpoint(tmp_path / "best.safetensors")


def test_a_state_dict_of_somebody_else(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="not written by 'vgg19 train'"):
        load_checkpoint(tmp_path / "x.safetensors")
