"""The loop: one epoch of training, and prediction. Knows no files and no console."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from models.errors import UserError
from models.freezing import ParameterGroup

Batches = Iterable[tuple[Tensor, Tensor]]
"""Of (uint8[N,S,S,3] RGB, int64[N] class indices)."""

# AdamW's and SGD's fused kernels exist on these devices (torch.optim documentation).
_FUSED_DEVICES = ("cpu", "cuda", "mps")


class TrainingError(UserError):
    """Training can't go on."""


@dataclass
class RunningStats:
    """Sums over the batches of an epoch so far."""

    loss_sum: float = 0.0
    correct: int = 0
    images: int = 0
    seconds: float = 0.0

    @property
    def loss(self) -> float:
        """Mean cross-entropy an image, in nats."""
        return self.loss_sum / self.images

    @property
    def accuracy(self) -> float:
        """0..1, of the predictions made while training (dropout active)."""
        return self.correct / self.images

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds


def choose_device(name: str) -> torch.device:
    """The device to train on; `auto` takes CUDA, then Apple's GPU, then the CPU.

    Raises:
        TrainingError: the named device isn't there.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(device for device, there in available.items() if there)
    if not available[name]:
        usable = ", ".join(device for device, there in available.items() if there)
        raise TrainingError(
            f"device is '{name}', which PyTorch doesn't find here (it finds {usable}); use "
            "device auto"
        )
    return torch.device(name)


def make_optimizer(
    groups: Iterable[ParameterGroup],
    kind: Literal["adamw", "sgd"],
    *,
    weight_decay: float,
    momentum: float,
    device: torch.device,
) -> Optimizer:
    """AdamW or SGD over the trainable parameters, each group at its own learning rate."""
    fused = device.type in _FUSED_DEVICES
    parameters = [
        {"params": group.parameters, "lr": group.learning_rate, "name": group.name}
        for group in groups
    ]
    if kind == "sgd":
        return SGD(parameters, momentum=momentum, weight_decay=weight_decay, fused=fused)
    return AdamW(parameters, weight_decay=weight_decay, fused=fused)


def make_schedule(
    optimizer: Optimizer, kind: Literal["cosine", "constant"], total_steps: int
) -> LRScheduler:
    """Learning-rate factor per optimizer step, the same for every group."""

    def factor(step: int) -> float:
        if kind == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * step / total_steps))

    return LambdaLR(optimizer, factor)


def train_epoch(
    model: nn.Module,
    normalize: nn.Module,
    batches: Batches,
    optimizer: Optimizer,
    schedule: LRScheduler,
    device: torch.device,
    on_batch: Callable[[int, RunningStats], None] = lambda size, stats: None,
) -> RunningStats:
    """One pass over the training images: forward, backward, step.

    Raises:
        TrainingError: the loss is no longer a number; the weights are those before that step.
    """
    model.train()
    stats = RunningStats()
    started = time.perf_counter()
    for cpu_images, cpu_targets in batches:
        images = cpu_images.to(device, non_blocking=True)
        targets = cpu_targets.to(device, non_blocking=True)
        logits = model(normalize(images))
        loss = nn.functional.cross_entropy(logits, targets)
        value = loss.item()  # waits for the device; a VGG-19 step dwarfs it
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss is {value} after {stats.images} images of this epoch; lower the "
                "learning rate (--learning-rate)"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        stats.loss_sum += value * len(targets)
        stats.correct += int((logits.argmax(dim=1) == targets).sum())
        stats.images += len(targets)
        stats.seconds = time.perf_counter() - started
        on_batch(len(targets), stats)
    return stats


@torch.inference_mode()
def predict(
    model: nn.Module,
    normalize: nn.Module,
    batches: Batches,
    device: torch.device,
    on_batch: Callable[[int], None] = lambda images: None,
) -> tuple[Tensor, Tensor]:
    """Run the model in eval mode over all batches.

    Returns:
        logits float32[N,C] and targets int64[N], on the CPU, in the order of the batches.
    """
    model.eval()
    logits: list[Tensor] = []
    targets: list[Tensor] = []
    for images, batch_targets in batches:
        logits.append(model(normalize(images.to(device, non_blocking=True))).float().cpu())
        targets.append(batch_targets)
        on_batch(len(batch_targets))
    return torch.cat(logits), torch.cat(targets)
