"""What is a network's own, in one object: everything else takes the network as this describes it.

A new one is a file like `models.network.vgg19` and a line in `models.network.architectures`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

# Modules with their names.
Sequence = list[tuple[str, nn.Module]]


@dataclass(frozen=True)
class Architecture:
    """A convolutional network that runs one module after another: convolutions, average pooling,
    fully connected layers with ReLU between them. (What lies within a module of the sequence, such
    as the branches of a residual block, is its own business.)

    A layer is a module of the sequence that has parameters.

    Args:
        name: in spec.json and config.yaml.
        title: what people are shown.
        make: (classes) -> the network, float32[N,3,S,S] -> float32[N,classes] logits, with random
            weights. Also called where the default device is `meta`.
        sequence: (network) -> the modules that it runs, in order, with their names in it.
        fully_connected: the layers behind the pooling, what strategy `fc` trains; the last one is
            the head, an `nn.Linear`. What goes into it are the features of an image.
        blocks: of the other layers, from the last to the first: the order in which `gradual`
            unfreezes them.
        pooling: the average pooling between the two, whose inputs [N,channels,h,w] heat maps show.
        pooled_operator: the ONNX operator that gives those inputs: the last one of its kind before
            the fully connected layers.
        imagenet_url: a state dict of the network with 1,000 classes; its name ends with the
            beginning of its SHA-256, as torchvision's do.
    """

    name: str
    title: str
    make: Callable[[int], nn.Module]
    sequence: Callable[[nn.Module], Sequence]
    fully_connected: tuple[str, ...]
    blocks: tuple[tuple[str, ...], ...]
    pooling: str
    pooled_operator: str
    imagenet_url: str

    @property
    def head(self) -> str:
        return self.fully_connected[-1]

    @property
    def head_weight(self) -> str:
        """Its name in a state dict, by which one of this network is known."""
        return f"{self.head}.weight"

    @cached_property
    def layer_names(self) -> tuple[str, ...]:
        """From the input to the head."""
        return tuple(self.layers(self.empty(num_classes=2)))

    def empty(self, num_classes: int) -> nn.Module:
        """A network of the right shapes on the meta device, to receive a checkpoint
        (`assign=True`)."""
        with torch.device("meta"):
            return self.make(num_classes)

    def layers(self, model: nn.Module) -> dict[str, nn.Module]:
        """From the input to the head."""
        return {
            name: module
            for name, module in self.sequence(model)
            if next(module.parameters(), None) is not None
        }

    def index(self, model: nn.Module, name: str) -> int:
        """Of a module in the sequence."""
        return [own for own, _ in self.sequence(model)].index(name)

    def first_trainable(self, model: nn.Module, trainable: Collection[str]) -> int:
        """Index in the sequence of the first module that trains."""
        return min(self.index(model, name) for name in trainable)

    def run(
        self, model: nn.Module, inputs: Tensor, start: int = 0, stop: int | None = None
    ) -> Tensor:
        """Run the modules `start` ... `stop` - 1 of the sequence; the whole is the network's own
        forward pass."""
        for _, module in self.sequence(model)[start:stop]:
            inputs = module(inputs)
        return inputs

    def shape_before(self, index: int, image_size: int) -> tuple[int, ...]:
        """Of one image, what goes into a module of the sequence; by a pass without arithmetic."""
        images = torch.empty(1, 3, image_size, image_size, device="meta")
        return tuple(self.run(self.empty(num_classes=1).eval(), images, 0, index).shape[1:])

    def before_pooling(
        self, model: nn.Module, features: Tensor, start: int, image_size: int
    ) -> tuple[Tensor, int] | None:
        """Features that go into module `start`, as those of the pooling or of a module before it;
        None where they can't be told.

        Args:
            features: float[N,...].

        Returns:
            features, and the index of the module that they go into.
        """
        pooling = self.index(model, self.pooling)
        if start <= pooling:
            return features, start
        pool, *between = (module for _, module in self.sequence(model)[pooling:start])
        shape = self.shape_before(pooling, image_size)
        # To the size that they have, adaptive pooling leaves values as they are.
        same = self.shape_before(pooling + 1, image_size) == shape
        if not (same and isinstance(pool, nn.AdaptiveAvgPool2d)):
            return None
        if not all(isinstance(module, nn.Flatten) for module in between):
            return None
        return features.reshape(-1, *shape), pooling

    def heat_map_side(self, image_size: int) -> int:
        """Values across a heat map of an image of that many pixels across."""
        index = self.index(self.empty(num_classes=1), self.pooling)
        return self.shape_before(index, image_size)[-1]
