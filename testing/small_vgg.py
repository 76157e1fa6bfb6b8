"""VGGs of some thousand weights, built, trained and exported as VGG-19 is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torchvision.models import VGG
from torchvision.models.vgg import cfgs, make_layers

from models.bundle.bundle import MODEL_FILE, GoldenSamples
from models.bundle.spec import ModelSpec
from models.export.onnx_export import ServingModule, export, reference_probabilities
from testing.bundles import tiny_spec, write_beside_model
from testing.images import coloured_pixels

_THIN_LAYERS: list[str | int] = [width if width == "M" else width // 16 for width in cfgs["E"]]
TEMPERATURE = 0.03  # makes the untrained network's answers differ from image to image


def small_vgg() -> VGG:
    torch.manual_seed(0)
    model = VGG(make_layers([8, "M", 16, "M"]), num_classes=3, init_weights=True)
    model.classifier = nn.Sequential(
        *(nn.Linear(16 * 49, 64), nn.ReLU(), nn.Dropout()),
        *(nn.Linear(64, 64), nn.ReLU(), nn.Dropout()),
        nn.Linear(64, 3),
    )
    nn.init.normal_(model.classifier[6].bias, std=0.01)
    return model


def thin_vgg19(*, weights: None = None, num_classes: int = 1000, init_weights: bool = True) -> VGG:
    """torchvision's `vgg19` with all its layers, a sixteenth as wide: 0.5 MB instead of 575."""
    model = VGG(make_layers(_THIN_LAYERS), num_classes, init_weights)
    model.classifier = nn.Sequential(
        *(nn.Linear(32 * 49, 32), nn.ReLU(True), nn.Dropout()),
        *(nn.Linear(32, 32), nn.ReLU(True), nn.Dropout()),
        nn.Linear(32, num_classes),
    )
    return model


def write_small_bundle(path: Path) -> tuple[ModelSpec, GoldenSamples]:
    """All files of a bundle but the manifest."""
    path.mkdir(parents=True)
    spec = tiny_spec()
    module = ServingModule(small_vgg(), spec, TEMPERATURE)
    _balance(module)
    export(module, spec, path / MODEL_FILE)
    images = pixels(4)
    golden = GoldenSamples(images=images, probabilities=reference_probabilities(module, images))
    write_beside_model(path, spec, golden, "small")
    return spec, golden


def _balance(module: ServingModule) -> None:
    """Untrained, it would give all images the same label."""
    with torch.no_grad():
        logits = module.model(module.normalize(torch.from_numpy(pixels(30, 100))))
        head = module.model.get_submodule("classifier.6")
        assert isinstance(head, nn.Linear)
        head.bias.sub_(logits.mean(dim=0))


def pixels(count: int, first_seed: int = 0) -> NDArray[np.uint8]:
    return np.stack([coloured_pixels(first_seed + number) for number in range(count)])
