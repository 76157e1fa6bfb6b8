"""A network that nobody needs, in the one file that a network takes: other names, other widths,
other ways to shrink an image than VGG-19's, and two fully connected layers."""

from __future__ import annotations

from torch import Tensor, nn

from models.network.architecture import Architecture, Sequence


class MadeUp(nn.Module):
    """float32[N,3,S,S] -> float32[N,classes] logits. Halves its input twice, and pools to 2 x 2."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, kernel_size=5, stride=2, padding=2)
        self.deep = nn.Conv2d(8, 12, kernel_size=3, stride=2, padding=1)
        self.shrink = nn.AdaptiveAvgPool2d(2)
        self.dense = nn.Linear(12 * 2 * 2, 20)
        self.answer = nn.Linear(20, classes)
        for layer in (self.stem, self.deep):
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # there is one

    def forward(self, images: Tensor) -> Tensor:
        places = self.deep(self.stem(images).relu()).relu()
        features = self.dense(self.shrink(places).flatten(1)).relu()
        logits: Tensor = self.answer(features)
        return logits


def _sequence(model: nn.Module) -> Sequence:
    assert isinstance(model, MadeUp)
    return [
        ("stem", model.stem),
        ("relu1", nn.ReLU()),
        ("deep", model.deep),
        ("relu2", nn.ReLU()),
        ("shrink", model.shrink),
        ("flatten", nn.Flatten()),
        ("dense", model.dense),
        ("relu3", nn.ReLU()),
        ("answer", model.answer),
    ]


MADE_UP = Architecture(
    name="made-up",
    title="Made-up",
    make=MadeUp,
    sequence=_sequence,
    fully_connected=("dense", "answer"),
    blocks=(("deep",), ("stem",)),
    pooling="shrink",
    pooled_operator="Relu",
    imagenet_url="https://example.org/made-up-00000000.pth",
)
