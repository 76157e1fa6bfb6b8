"""torchvision's VGG-19 (Simonyan & Zisserman 2014, configuration E): `features` (sixteen 3x3
convolutions), `avgpool` (to 7x7) and `classifier`: FC1 `[0]`, FC2 `[3]` and the head `[6]`."""

from __future__ import annotations

from torch import nn
from torchvision.models import VGG, VGG19_Weights, vgg19

from models.network.architecture import Architecture, Sequence


def _make(num_classes: int) -> nn.Module:
    return vgg19(weights=None, num_classes=num_classes)  # type: ignore[no-any-return]  # untyped


def _sequence(model: VGG) -> Sequence:
    return [
        *((f"features.{name}", module) for name, module in model.features.named_children()),
        ("avgpool", model.avgpool),
        ("flatten", nn.Flatten()),
        *((f"classifier.{name}", module) for name, module in model.classifier.named_children()),
    ]


VGG19 = Architecture(
    name="vgg19",
    title="VGG-19",
    make=_make,
    sequence=_sequence,
    fully_connected=("classifier.0", "classifier.3", "classifier.6"),
    blocks=(
        ("features.28", "features.30", "features.32", "features.34"),
        ("features.19", "features.21", "features.23", "features.25"),
        ("features.10", "features.12", "features.14", "features.16"),
        ("features.5", "features.7"),
        ("features.0", "features.2"),
    ),
    pooling="avgpool",
    pooled_operator="MaxPool",
    imagenet_url=VGG19_Weights.IMAGENET1K_V1.url,
)
