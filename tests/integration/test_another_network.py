"""A network other than VGG-19, from one file (`tests.made_up_network`) to a served prediction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models.bundle.bundle import Bundle
from models.export.onnx_export import ServingModule, reference_probabilities
from models.imaging.image import load_image
from models.network.architectures import ARCHITECTURES, ArchitectureError
from models.network.grad_cam import grad_cam
from testing import patient
from testing.images import COLOURS, write_image_folder
from testing.server import put_into_production, serve
from tests.made_up_network import MADE_UP, MadeUp
from training.export.bundle import export_run
from training.loop.checkpoint import load_checkpoint
from training.loop.config_file import ConfigError, load_config
from training.loop.preflight import check_config
from training.loop.recipe import fine_tune
from training.loop.run import Run
from training.reporter import SilentReporter

CONVOLUTIONS = {"stem", "deep"}
ALL = CONVOLUTIONS | {"dense", "answer"}


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line in `models.network.architectures`."""
    monkeypatch.setitem(ARCHITECTURES, MADE_UP.name, MADE_UP)


@pytest.fixture
def start(tmp_path: Path) -> dict[str, Tensor]:
    """What training begins with, in start.pth, with the prefix of a wrapper."""
    torch.manual_seed(3)
    state = MadeUp(1000).state_dict()
    torch.save({f"module.{name}": tensor for name, tensor in state.items()}, tmp_path / "start.pth")
    return state


def train(tmp_path: Path, **changes: Any) -> tuple[Run, SilentReporter]:
    if not (tmp_path / "data").exists():
        write_image_folder(tmp_path / "data", dict.fromkeys(COLOURS, 20))
    values = {
        "data": tmp_path / "data", "output": tmp_path / "run", "network": "made-up",
        "weights": tmp_path / "start.pth", "image_size": 32, "batch_size": 8, "epochs": 2,
        "learning_rate": 1e-2, "cache_dir": tmp_path / "cache", "split_by": "exact",
    }  # fmt: skip
    reporter = SilentReporter()
    return fine_tune(load_config(None, values | changes), reporter), reporter


def changed(run: Run, start: dict[str, Tensor]) -> set[str]:
    """The layers whose weights aren't those that training began with."""
    trained = load_checkpoint(run.last)[0].state_dict()
    return {
        name.removesuffix(".weight")
        for name, tensor in trained.items()
        if name.endswith(".weight") and not (
            tensor.shape == start[name].shape and torch.equal(tensor, start[name])
        )
    }  # fmt: skip


@pytest.mark.parametrize(
    ("strategy", "trained"),
    [("head", {"answer"}), ("fc", {"dense", "answer"}), ("gradual", ALL), ("full", ALL)],
)
def test_strategies_train_its_own_layers(
    tmp_path: Path, start: dict[str, Tensor], strategy: str, trained: set[str]
) -> None:
    # Of two blocks, gradual unfreezes one in each of the epochs 2 and 3.
    # From a fitted head, epoch 0 might stay the best.
    run, reporter = train(tmp_path, strategy=strategy, epochs=3, augment="none", head_init="random")
    assert changed(run, start) == trained
    assert any("Made-up, weights" in message for message in reporter.messages)
    assert ("caching the inputs of dense: 48 values" in " ".join(reporter.messages)) == (
        strategy in ("fc", "gradual")
    )


def test_from_scratch_its_convolutions_are_scaled(tmp_path: Path) -> None:
    run, _ = train(tmp_path, weights="none", strategy="head", augment="none", epochs=1)
    model, spec = load_checkpoint(run.best)
    images = [load_image(file, spec.preprocessing) for file in (tmp_path / "data").rglob("*.png")]
    inputs = ServingModule(model, spec).normalize(torch.from_numpy(np.stack(images)))
    with torch.no_grad():
        for stop in (1, 3):  # behind each of the two convolutions
            assert MADE_UP.run(model, inputs, stop=stop).std().item() == pytest.approx(1, abs=0.1)


def exported(run: Run) -> Bundle:
    bundle, parity = export_run(run)
    assert parity.max_probability_difference <= 1e-4
    assert bundle.metrics()["heat_map_parity"]["max_difference"] <= 1e-3
    assert (bundle.spec.architecture, bundle.spec.heat_map_side) == ("made-up", 8)
    return bundle


def test_what_is_served_answers_as_pytorch_does(tmp_path: Path, start: dict[str, Tensor]) -> None:
    """The service knows nothing of the network: `known` is not in its process."""
    run, _ = train(tmp_path, strategy="fc", epochs=10, pretrained_learning_rate=1e-2)
    home = put_into_production(exported(run).path)
    files = sorted((tmp_path / "data").rglob("*.png"))[::9]
    model, spec = load_checkpoint(run.best)
    pixels = np.stack([load_image(file, spec.preprocessing) for file in files])
    temperature = run.read_json(run.metrics)["calibration"]["temperature"]
    module = ServingModule(model, spec, temperature)
    expected = reference_probabilities(module, pixels)
    best = torch.from_numpy(expected.argmax(axis=1))
    maps = grad_cam(MADE_UP, model, module.normalize(torch.from_numpy(pixels)), best)

    with serve(home, tmp_path / "server.log") as server:
        parts = [("image", (file.name, file.read_bytes())) for file in files]
        url = f"{server.url}/classify?top_k=3&explain=true"
        reply = patient.post(url, files=parts).json()
        metadata = patient.get(f"{server.url}/v2/models/vgg19").json()

    assert len(set(best.tolist())) == 3  # it has learned something
    for image, row, heat_map in zip(reply["images"], expected, maps, strict=True):
        by_index = sorted(image["predictions"], key=lambda prediction: prediction["index"])
        assert [p["probability"] for p in by_index] == pytest.approx(row.tolist(), abs=1e-4)
        np.testing.assert_allclose(image["heatmap"]["values"], heat_map.numpy(), atol=2e-3)
        assert image["distance"] > 0
    shapes = {output["name"]: output["shape"] for output in metadata["outputs"]}
    assert shapes["heatmap"] == [-1, 8, 8]


def test_its_own_blocks_are_counted(tmp_path: Path) -> None:
    values = {
        "data": "d", "output": "o", "network": "made-up", "weights": "none", "epochs": 9,
        "strategy": "gradual", "unfreeze_epochs": (2, 3, 4),
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"\[2, 3, 4\], 3 epochs, and there are 2 blocks"):
        check_config(load_config(None, values))


def test_a_checkpoint_of_a_network_that_is_not_there(
    tmp_path: Path, start: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = train(tmp_path, strategy="head", epochs=1, augment="none")
    monkeypatch.delitem(ARCHITECTURES, "made-up")
    with pytest.raises(ArchitectureError, match="no network 'made-up'; choose one of vgg19"):
        load_checkpoint(run.best)
