from __future__ import annotations

import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import VGG, VGG19_Weights, vgg19

from models.imaging.preprocessing import Preprocessing
from models.network.build import build, initialise_from_data, replace_head
from models.network.normalize import Normalize
from models.network.vgg19 import VGG19
from models.network.weights import WeightsError
from testing.images import coloured_pixels

pytestmark = pytest.mark.slow

CACHED_NAME = "vgg19-dcbb9e9d.pth"  # torchvision's, in TORCH_HOME/hub/checkpoints


@pytest.fixture(scope="module")
def donor() -> VGG:
    """A VGG-19 of 1000 classes with weights of its own."""
    torch.manual_seed(7)
    model: VGG = vgg19(weights=None, init_weights=False)
    return model


@pytest.fixture
def torch_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty TORCH_HOME, and no network."""

    def no_network(*_: object, **__: object) -> NoReturn:
        raise urllib.error.URLError("no network in tests")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", no_network)
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    yield tmp_path
    for file in tmp_path.rglob("*.pth"):
        file.unlink()  # 575 MB


class TestImagenet:
    def test_from_torch_home_without_network(self, torch_home: Path, donor: VGG) -> None:
        assert VGG19_Weights.IMAGENET1K_V1.url.endswith(CACHED_NAME)
        torch.save(donor.state_dict(), torch_home / "hub" / "checkpoints" / CACHED_NAME)

        model = build(VGG19, "imagenet", num_classes=1000)

        expected = donor.state_dict()
        for name, tensor in model.state_dict().items():
            same = torch.equal(tensor, expected[name])
            assert same != name.startswith("classifier.6."), name  # the head, and only it, is new

    def test_without_file_and_network_names_the_three_ways(self, torch_home: Path) -> None:
        with pytest.raises(WeightsError) as caught:
            build(VGG19, "imagenet", num_classes=2)
        message = str(caught.value)
        for way in (CACHED_NAME, "--weights imagenet", "--weights PATH", "--weights none"):
            assert way in message

    def test_a_damaged_cache_is_an_error(self, torch_home: Path) -> None:
        (torch_home / "hub" / "checkpoints" / CACHED_NAME).write_bytes(b"nothing")
        with pytest.raises(WeightsError, match="cached ImageNet weights are damaged") as caught:
            build(VGG19, "imagenet", num_classes=2)
        file = torch_home / "hub" / "checkpoints" / CACHED_NAME
        assert str(file) in str(caught.value)
        assert "delete the file" in str(caught.value)
        assert "weights_only" not in str(caught.value)


class TestPath:
    @pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
    def test_state_dicts(self, tmp_path: Path, donor: VGG, suffix: str) -> None:
        path = tmp_path / f"weights{suffix}"
        if suffix == ".pth":
            torch.save(donor.state_dict(), path)
        else:
            save_file(donor.state_dict(), path)

        model: VGG = build(VGG19, str(path), num_classes=3)

        path.unlink()
        assert torch.equal(model.features[0].weight, donor.features[0].weight)
        assert torch.equal(model.classifier[3].bias, donor.classifier[3].bias)
        assert model.classifier[6].out_features == 3
        assert all(p.requires_grad and p.dtype == torch.float32 for p in model.parameters())

    def test_code_in_a_pickle_does_not_run(self, tmp_path: Path) -> None:
        marker = tmp_path / "ran"

        class Evil:
            def __reduce__(self) -> tuple[Any, ...]:
                return (marker.touch, ())

        torch.save({"classifier.6.weight": Evil()}, tmp_path / "evil.pth")
        with pytest.raises(WeightsError, match="never unpickled"):
            build(VGG19, str(tmp_path / "evil.pth"), num_classes=2)
        assert not marker.exists()

    @pytest.mark.parametrize("name", ["bad.pth", "bad.safetensors"])
    @pytest.mark.parametrize("content", [b"", b"rubbish" * 100])
    def test_damaged(self, tmp_path: Path, name: str, content: bytes) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match=name):
            build(VGG19, str(tmp_path / name), num_classes=2)

    def test_another_network(self, tmp_path: Path) -> None:
        save_file({"fc.weight": torch.zeros(2, 2)}, tmp_path / "resnet.safetensors")
        with pytest.raises(WeightsError, match=r"there is no classifier\.6\.weight"):
            build(VGG19, str(tmp_path / "resnet.safetensors"), num_classes=2)

    def test_another_vgg(self, tmp_path: Path) -> None:
        save_file({"classifier.6.weight": torch.zeros(2, 4096)}, tmp_path / "v.safetensors")
        with pytest.raises(
            WeightsError, match="not the weights of a torchvision VGG-19: .*Missing"
        ):
            build(VGG19, str(tmp_path / "v.safetensors"), num_classes=2)

    def test_not_a_state_dict(self, tmp_path: Path) -> None:
        torch.save(torch.zeros(1), tmp_path / "t.pth")
        with pytest.raises(WeightsError, match="holds a Tensor, not a state dict"):
            build(VGG19, str(tmp_path / "t.pth"), num_classes=2)

    def test_no_such_file(self) -> None:
        with pytest.raises(WeightsError, match="no such file"):
            build(VGG19, "imagenet21k", num_classes=2)


def test_head_takes_its_input_size_from_the_old_one(donor: VGG) -> None:
    model = vgg19(weights=None, init_weights=False)
    model.classifier[6] = nn.Linear(17, 5)
    replace_head(VGG19, model, 4)
    assert (model.classifier[6].in_features, model.classifier[6].out_features) == (17, 4)


def test_initialisation_gives_every_convolution_unit_variance() -> None:
    torch.manual_seed(0)
    model: VGG = build(VGG19, "none", num_classes=3)
    pixels = torch.stack([torch.from_numpy(coloured_pixels(seed)) for seed in range(16)])
    inputs = Normalize(Preprocessing(image_size=32, resize_size=32))(pixels)
    deviations: list[float] = []
    for layer in model.features:
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(
                lambda _, __, output: deviations.append(output.std().item())
            )

    with torch.no_grad():
        model.features(inputs)
    before = list(deviations)
    deviations.clear()
    initialise_from_data(VGG19, model, inputs)
    deviations.clear()
    with torch.no_grad():
        model.features(inputs)

    assert max(abs(deviation - 1) for deviation in before) > 0.3  # there was something to do
    assert deviations == pytest.approx([1.0] * 16, abs=1e-4)
