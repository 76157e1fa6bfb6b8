"""VGGs of some thousand weights, built, trained and exported as VGG-19 is."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torchvision.models import VGG
from torchvision.models.vgg import cfgs, make_layers

from models.bundle.bundle import MODEL_FILE
from models.bundle.golden import GoldenSamples
from models.bundle.spec import ModelSpec
from models.export.onnx_export import ServingModule, export, reference_probabilities
from testing.bundles import tiny_spec, write_beside_model
from testing.images import coloured_pixels

_Layers = list[str | int]  # channels of a convolution, or "M" for max pooling
_THIN_LAYERS: _Layers = [width if width == "M" else width // 16 for width in cfgs["E"]]
TEMPERATURE = 0.03  # makes the untrained network's answers differ from image to image


def small_vgg() -> VGG:
    """Of the seeds below 40, this one leaves the labels furthest from changing by rounding."""
    torch.manual_seed(30)
    model = _vgg([8, "M", 16, "M"], 64, 3)
    nn.init.normal_(model.classifier[6].bias, std=0.01)
    return model


def thin_vgg19(*, weights: None = None, num_classes: int = 1000) -> VGG:
    """torchvision's `vgg19` with all its layers, a sixteenth as wide: 0.5 MB instead of 575."""
    return _vgg(_THIN_LAYERS, 32, num_classes)


def _vgg(layers: _Layers, width: int, num_classes: int) -> VGG:
    with torch.device("meta"):  # the 120 million weights of a classifier that is replaced
        model = VGG(nn.Sequential(), num_classes, init_weights=False)
    model.features = make_layers(layers)
    for module in model.features:
        if isinstance(module, nn.Conv2d):  # as torchvision does
            assert module.bias is not None
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(module.bias)
    channels = [width for width in layers if isinstance(width, int)][-1]
    model.classifier = nn.Sequential(
        *(nn.Linear(channels * 49, width), nn.ReLU(True), nn.Dropout()),
        *(nn.Linear(width, width), nn.ReLU(True), nn.Dropout()),
        nn.Linear(width, num_classes),
    )
    return model


def write_small_bundle(path: Path) -> tuple[ModelSpec, GoldenSamples]:
    """All files of a bundle but the manifest; exported once a process, which takes a second."""
    place, spec, golden = _small_bundle()
    shutil.copytree(Path(place.name) / "bundle", path)
    return spec, golden


@cache
def _small_bundle() -> tuple[TemporaryDirectory[str], ModelSpec, GoldenSamples]:
    place = TemporaryDirectory()
    path = Path(place.name) / "bundle"
    path.mkdir()
    spec = tiny_spec()
    module = ServingModule(small_vgg(), spec, TEMPERATURE)
    _balance(module)
    export(module, spec, path / MODEL_FILE)
    images = pixels(4)
    golden = GoldenSamples(images=images, probabilities=reference_probabilities(module, images))
    write_beside_model(path, spec, golden, "small")
    return place, spec, golden


def _balance(module: ServingModule) -> None:
    """Untrained, it would give all images the same label."""
    with torch.no_grad():
        logits = module.model(module.normalize(torch.from_numpy(pixels(30, 100))))
        head = module.model.get_submodule("classifier.6")
        assert isinstance(head, nn.Linear)
        head.bias.sub_(logits.mean(dim=0))


def pixels(count: int, first_seed: int = 0) -> NDArray[np.uint8]:
    return np.stack([coloured_pixels(first_seed + number) for number in range(count)])
