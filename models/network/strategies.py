"""Strategies: which layers train, when, and at which learning rate.

A layer is a module with parameters, named as torchvision names it: `features.0` ... `features.34`
(sixteen convolutions), `classifier.0` (FC1), `classifier.3` (FC2), `classifier.6` (the head).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torchvision.models import VGG

from models.errors import UserError
from models.network.unfreezing import Strategy as Strategy
from models.network.unfreezing import default_unfreeze_epochs as default_unfreeze_epochs

HEAD_LAYER = "classifier.6"
FC_LAYERS = ("classifier.0", "classifier.3", HEAD_LAYER)

# The five blocks between the poolings, from the last to the first: the order of unfreezing.
CONV_BLOCKS = (
    ("features.28", "features.30", "features.32", "features.34"),
    ("features.19", "features.21", "features.23", "features.25"),
    ("features.10", "features.12", "features.14", "features.16"),
    ("features.5", "features.7"),
    ("features.0", "features.2"),
)


class StrategyError(UserError):
    """A pattern names no layer, or the unfreezing epochs don't fit."""


@dataclass(frozen=True)
class ParameterGroup:
    """What the optimizer gets: the parameters of one layer, at their learning rate."""

    name: str
    parameters: list[nn.Parameter]
    learning_rate: float


def layers(model: VGG) -> dict[str, nn.Module]:
    """The layers with parameters, from the input to the head."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    }


def match_layers(patterns: Collection[str], names: Collection[str]) -> set[str]:
    """The layers that shell-style patterns name, such as `features.3?` or `classifier.*`.

    Raises:
        StrategyError: a pattern names none.
    """
    matched: set[str] = set()
    for pattern in patterns:
        found = {name for name in names if fnmatchcase(name, pattern)}
        if not found:
            raise StrategyError(
                f"--unfreeze '{pattern}' names no layer; the layers are {', '.join(names)}"
            )
        matched |= found
    return matched


def trainable_layers(
    strategy: Strategy,
    names: Sequence[str],
    *,
    epoch: int = 1,
    unfreeze_epochs: Sequence[int] = (),
    unfreeze: Collection[str] = (),
) -> set[str]:
    """Which layers train in an epoch (counted from 1).

    `head`: the new head. `fc`: FC1, FC2 and the head. `full`: everything. `gradual`: as `fc`, and
    one more block of convolutions, from the last to the first, at each of `unfreeze_epochs`.
    The layers that `unfreeze` names train in any case.
    """
    extra = match_layers(unfreeze, names)
    if strategy == "full":
        return set(names)
    if strategy == "head":
        return {HEAD_LAYER} | extra
    unfrozen = (
        sum(epoch >= unfreeze for unfreeze in unfreeze_epochs) if strategy == "gradual" else 0
    )
    return set(FC_LAYERS).union(extra, *CONV_BLOCKS[:unfrozen])


def layer_learning_rates(
    names: Sequence[str], *, head: float, pretrained: float, decay: float
) -> dict[str, float]:
    """A learning rate for each layer: `head` for the head, `pretrained` for the layer below it,
    and `decay` times less for each layer further towards the input (1: the same for all).

    Args:
        names: from the input to the head.
    """
    below = list(names)[-2::-1]  # without the head, the nearest first
    rates = {name: pretrained * decay**depth for depth, name in enumerate(below)}
    return rates | {HEAD_LAYER: head}


def parameter_groups(
    model: VGG, trainable: Collection[str], rates: dict[str, float]
) -> list[ParameterGroup]:
    """The layers that train, each a group; frozen parameters are in none.

    So the optimizer keeps no state for what is frozen.
    """
    return [
        ParameterGroup(name, list(module.parameters()), rates[name])
        for name, module in layers(model).items()
        if name in trainable
    ]


def network_sequence(model: VGG) -> list[tuple[str, nn.Module]]:
    """The network as the list of modules that it runs, in order, with torchvision's names."""
    return [
        *((f"features.{name}", module) for name, module in model.features.named_children()),
        ("avgpool", model.avgpool),
        ("flatten", nn.Flatten()),
        *((f"classifier.{name}", module) for name, module in model.classifier.named_children()),
    ]


def run_modules(model: VGG, inputs: Tensor, start: int, stop: int | None = None) -> Tensor:
    """Run the modules `start` ... `stop` - 1 of the network's sequence."""
    for _, module in network_sequence(model)[start:stop]:
        inputs = module(inputs)
    return inputs


class FineTuner(nn.Module):
    """VGG-19 in training: what is frozen below the first layer that trains costs no backward pass.

    That prefix runs in eval mode and without autograd, so none of its activations are kept.
    """

    def __init__(self, model: VGG) -> None:
        super().__init__()
        self.model = model
        self._trainable: set[str] = set()
        self.boundary = 0
        """Index in the network's sequence of the first module that trains."""

    def set_trainable(self, names: Collection[str]) -> None:
        """Unfreeze the named layers and freeze all others."""
        self._trainable = set(names)
        for name, module in layers(self.model).items():
            module.requires_grad_(name in self._trainable)
        self.boundary = first_trainable(self.model, names)

    def train(self, mode: bool = True) -> FineTuner:
        super().train(mode)
        for _, module in network_sequence(self.model)[: self.boundary]:
            module.eval()
        return self

    def forward(self, inputs: Tensor, start: int = 0) -> Tensor:
        """Logits float32[N,C].

        Args:
            inputs: float32[N,3,S,S], or with `start` above 0 what goes into that module of the
                network's sequence.
        """
        with torch.no_grad():
            inputs = run_modules(self.model, inputs, start, self.boundary)
        return run_modules(self.model, inputs, max(start, self.boundary))


def first_trainable(model: VGG, trainable: Collection[str]) -> int:
    """Index in the network's sequence of the first module that trains."""
    names = [name for name, _ in network_sequence(model)]
    return min(names.index(name) for name in trainable)
