"""Strategies: which layers train, in which parameter group, at which learning rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from torch import nn
from torchvision.models import VGG

from models.vgg19 import FC1, FC2, HEAD

Strategy = Literal["fc", "full"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)


@dataclass(frozen=True)
class ParameterGroup:
    """What the optimizer gets: trainable parameters that share a learning rate."""

    name: str
    parameters: list[nn.Parameter]
    learning_rate: float


def apply_strategy(model: VGG, strategy: Strategy) -> None:
    """Freeze and thaw the model's parameters (in place).

    `full`: everything trains. `fc`: everything is frozen, then FC1 (`classifier[0]`) and FC2
    (`classifier[3]`) are thawed. The head (`classifier[6]`) is new and always trains.
    """
    model.requires_grad_(strategy == "full")
    for index in (FC1, FC2, HEAD):
        model.classifier[index].requires_grad_(True)


def parameter_groups(
    model: VGG, *, head_learning_rate: float, pretrained_learning_rate: float
) -> list[ParameterGroup]:
    """The trainable parameters: the new head, and the thawed layers below it.

    Frozen parameters are in no group, so the optimizer keeps no state for them.
    """
    head = list(model.classifier[HEAD].parameters())
    in_head = {id(parameter) for parameter in head}
    thawed = [
        parameter
        for parameter in model.parameters()
        if parameter.requires_grad and id(parameter) not in in_head
    ]
    return [
        ParameterGroup("head", head, head_learning_rate),
        ParameterGroup("pretrained", thawed, pretrained_learning_rate),
    ]
