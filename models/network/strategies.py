"""Strategies: which layers train, when, and at which learning rate.

A layer has the name that it has in the network: of VGG-19 `features.0` ... `features.34` (sixteen
convolutions), `classifier.0` (FC1), `classifier.3` (FC2), `classifier.6` (the head).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from models.errors import UserError
from models.network.architecture import Architecture
from models.network.unfreezing import Strategy


class StrategyError(UserError):
    """A pattern names no layer, or the unfreezing epochs don't fit."""


@dataclass(frozen=True)
class ParameterGroup:
    """What the optimizer gets: the parameters of one layer, at their learning rate."""

    name: str
    parameters: list[nn.Parameter]
    learning_rate: float


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
    architecture: Architecture,
    strategy: Strategy,
    *,
    epoch: int = 1,
    unfreeze_epochs: Sequence[int] = (),
    unfreeze: Collection[str] = (),
) -> set[str]:
    """Which layers train in an epoch (counted from 1).

    `head`: the new head. `fc`: all fully connected layers (of VGG-19 FC1, FC2 and the head).
    `full`: everything. `gradual`: as `fc`, and one more block of convolutions, from the last to the
    first, at each of `unfreeze_epochs`. The layers that `unfreeze` names train in any case.
    """
    names = architecture.layer_names
    extra = match_layers(unfreeze, names)
    if strategy == "full":
        return set(names)
    if strategy == "head":
        return {architecture.head} | extra
    unfrozen = (
        sum(epoch >= unfreeze for unfreeze in unfreeze_epochs) if strategy == "gradual" else 0
    )
    return set(architecture.fully_connected).union(extra, *architecture.blocks[:unfrozen])


def layer_learning_rates(
    names: Sequence[str], *, head: float, pretrained: float, decay: float
) -> dict[str, float]:
    """A learning rate for each layer: `head` for the head, `pretrained` for the layer below it,
    and `decay` times less for each layer further towards the input (1: the same for all).

    Args:
        names: from the input to the head.
    """
    *others, head_layer = names
    below = reversed(others)  # the nearest to the head first
    rates = {name: pretrained * decay**depth for depth, name in enumerate(below)}
    return rates | {head_layer: head}


def parameter_groups(
    layers: Mapping[str, nn.Module], trainable: Collection[str], rates: Mapping[str, float]
) -> list[ParameterGroup]:
    """The layers that train, each a group; frozen parameters are in none.

    So the optimizer keeps no state for what is frozen.

    Args:
        layers: see `Architecture.layers`.
        rates: name -> learning rate.
    """
    return [
        ParameterGroup(name, list(module.parameters()), rates[name])
        for name, module in layers.items()
        if name in trainable
    ]


class FineTuner(nn.Module):
    """A network in training. What is frozen below the first layer that trains costs no backward
    pass.

    That prefix runs in eval mode and without autograd, so none of its activations are kept.

    Args:
        bf16_convolutions: compute what is below the pooling in bfloat16, and what is behind it as
            the caller does. Weights and their gradients stay in float32.
    """

    def __init__(
        self, architecture: Architecture, model: nn.Module, *, bf16_convolutions: bool = False
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.model = model
        self._bf16_until = architecture.index(model, architecture.pooling) * bf16_convolutions
        self._trainable: set[str] = set()
        self.boundary = 0
        """Index in the network's sequence of the first module that trains."""

    def set_trainable(self, names: Collection[str]) -> None:
        """Unfreeze the named layers and freeze all others."""
        self._trainable = set(names)
        for name, module in self.architecture.layers(self.model).items():
            module.requires_grad_(name in self._trainable)
        self.boundary = self.architecture.first_trainable(self.model, names)

    def train(self, mode: bool = True) -> FineTuner:
        super().train(mode)
        for _, module in self.architecture.sequence(self.model)[: self.boundary]:
            module.eval()
        return self

    def forward(self, inputs: Tensor, start: int = 0) -> Tensor:
        """Logits float32[N,C].

        Args:
            inputs: float32[N,3,S,S], or with `start` above 0 what goes into that module of the
                network's sequence.
        """
        with torch.no_grad():
            inputs = self._run(inputs, start, self.boundary)
        return self._run(inputs, max(start, self.boundary))

    def _run(self, inputs: Tensor, start: int, stop: int | None = None) -> Tensor:
        if start < self._bf16_until:
            until = self._bf16_until if stop is None else min(stop, self._bf16_until)
            # In bfloat16 channels last is faster in training, too (docs/benchmarks.md).
            inputs = inputs.contiguous(memory_format=torch.channels_last)
            with torch.autocast(inputs.device.type, torch.bfloat16):
                inputs = self.architecture.run(self.model, inputs, start, until)
            inputs, start = inputs.float(), max(start, until)
        return self.architecture.run(self.model, inputs, start, stop)
