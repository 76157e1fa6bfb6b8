"""The optimizer, and the learning rates that it is given step by step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch.optim import SGD, AdamW, Optimizer

from models.network.strategies import ParameterGroup

# AdamW's and SGD's fused kernels exist on these devices (torch.optim documentation).
_FUSED_DEVICES = ("cpu", "cuda", "mps")


def make_optimizer(
    groups: Iterable[ParameterGroup],
    kind: Literal["adamw", "sgd"],
    *,
    weight_decay: float,
    momentum: float,
    device: torch.device,
) -> Optimizer:
    """AdamW or SGD over the trainable layers, each at its own learning rate."""
    fused = device.type in _FUSED_DEVICES
    parameters = [optimizer_group(group) for group in groups]
    if kind == "sgd":
        return SGD(parameters, momentum=momentum, weight_decay=weight_decay, fused=fused)
    return AdamW(parameters, weight_decay=weight_decay, fused=fused)


def optimizer_group(group: ParameterGroup) -> dict[str, Any]:
    """`base_lr` is the rate that the schedule's factor is applied to."""
    return {
        "params": group.parameters,
        "lr": group.learning_rate,
        "base_lr": group.learning_rate,
        "name": group.name,
    }


def schedule_factor(
    step: int, *, total_steps: int, warmup_steps: int, kind: Literal["cosine", "constant"]
) -> float:
    """Learning-rate factor, 0..1, of a step counted from 0.

    Linear up over the warm-up, then constant or half a cosine down to zero.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if kind == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / (total_steps - warmup_steps)))
