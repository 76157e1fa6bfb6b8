"""The loop's steps. Knows no files and no console.

Accelerate does devices, mixed precision and distribution.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from models.errors import UserError
from models.network.strategies import FineTuner
from models.network.weights import is_finite
from training.data.batch import Batch
from training.loop.inference import network_inputs
from training.loop.linear_step import LinearStep, large_linear_layers

_LOWER_THE_RATE = "Lower the learning rate (--learning-rate; 'vgg19 find-lr' suggests one)"


class TrainingError(UserError):
    """Training can't go on."""


@dataclass
class RunningStats:
    """Sums over the images of an epoch so far, of all processes."""

    loss_sum: float = 0.0
    correct: int = 0
    images: int = 0
    seconds: float = 0.0

    @property
    def loss(self) -> float:
        """Mean loss an image, in nats, as trained on (smoothing and weights included)."""
        return self.loss_sum / max(self.images, 1)

    @property
    def accuracy(self) -> float:
        """0..1, of the predictions made while training (dropout active)."""
        return self.correct / max(self.images, 1)

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds if self.seconds else 0.0


@dataclass
class TrainState:
    """Where a run stands: `batch` batches of `epoch` (from 1) are done, `step` steps in all."""

    epoch: int = 1
    batch: int = 0
    step: int = 0
    stats: RunningStats = field(default_factory=RunningStats)


@dataclass(frozen=True)
class Objective:
    """The loss. `class_weights`: float32[C] or None."""

    label_smoothing: float = 0.0
    class_weights: Tensor | None = None

    def per_sample_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """float32[N]: each image's cross-entropy, times its class's weight."""
        return nn.functional.cross_entropy(
            logits,
            targets,
            weight=self.class_weights,
            label_smoothing=self.label_smoothing,
            reduction="none",
        )

    def normalizer(self, targets: Tensor, weights: Tensor) -> Tensor:
        """float32[]: what the sum of `per_sample_loss` is to be divided by for the mean, as PyTorch
        does."""
        if self.class_weights is not None and targets.ndim == 1:
            weights = weights * self.class_weights[targets]
        return weights.sum()


class _Read:
    """Values on their way from the device.

    The copy is ordered before whatever the device is given afterwards, and nobody waits for it
    before the values are asked for.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._arrived: torch.cuda.Event | None = None
        self._tensor = tensor
        if tensor.is_cuda:
            self._tensor = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._tensor.copy_(tensor, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    @cached_property
    def values(self) -> list[float]:
        if self._arrived is not None:
            self._arrived.synchronize()
        values: list[float] = self._tensor.tolist()
        return values


class Trainer:
    """A model with its optimizer, and what a step does with a batch.

    Args:
        factor: learning-rate factor of a step, see `schedule_factor`.
        mix: batch augmentation, see `training.data.augment.BatchMixing`.
        micro_batch_size: images at once; the gradient of a batch is summed over its pieces.
        auto_batch: halve `micro_batch_size` when memory runs out, and try the batch again.
        names: index in the data set -> file, for messages.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: FineTuner,
        normalize: nn.Module,
        optimizer: Optimizer,
        *,
        objective: Objective,
        factor: Callable[[int], float],
        mix: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = lambda x, y: (x, y),
        clip_norm: float | None = None,
        ema_decay: float | None = None,
        micro_batch_size: int | None = None,
        auto_batch: bool = False,
        compile_model: bool = False,
        names: Callable[[int], str] = str,
    ) -> None:
        self.accelerator = accelerator
        self.model = model
        self.normalize = normalize
        self.optimizer = optimizer
        self.ema: AveragedModel | None = None
        if ema_decay is not None:
            self.ema = AveragedModel(model.model, multi_avg_fn=get_ema_multi_avg_fn(ema_decay))
        self.micro_batch_size = micro_batch_size
        self.stop_agreed = False
        self._auto_batch = auto_batch
        self._objective = objective
        self.factor = factor
        self._mix = mix
        self._clip_norm = clip_norm
        self._compile = compile_model
        self._names = names
        self._prepared_optimizer = accelerator.prepare_optimizer(optimizer)
        self.prepare()

    def prepare(self) -> None:
        """Wrap the model for this machine; again after other layers have been unfrozen."""
        compiled: Any = torch.compile(self.model) if self._compile else self.model
        self._prepared: nn.Module = self.accelerator.prepare_model(compiled)
        self._prepared.train()
        # Who wraps or compiles it, or scales its gradients, needs to find them.
        alone = self._prepared is self.model and self.accelerator.scaler is None
        on_cpu = self.accelerator.device.type == "cpu"
        layers = large_linear_layers(self.model, self.optimizer) if alone and on_cpu else []
        self._linear_step = LinearStep(layers, self.optimizer)

    @property
    def inference_model(self) -> nn.Module:
        """The network to evaluate and to save: the averaged one, if there is one."""
        network: nn.Module = self.model.model if self.ema is None else self.ema.module
        return network

    def step(self, batch: Batch, state: TrainState, *, stop_requested: bool = False) -> int:
        """Train on one batch and move `state` along; returns the images of all processes.

        Args:
            stop_requested: this process wants to stop; `stop_agreed` then tells all of them.

        Raises:
            TrainingError: the loss is no longer a number; the weights are those before that step.
        """
        started = time.perf_counter()
        if not self.model.model.training:  # after an evaluation
            self._prepared.train()
        self._set_rates(self.factor(state.step))
        device = self.accelerator.device
        targets, weights = (t.to(device, non_blocking=True) for t in (batch.targets, batch.weights))
        inputs = network_inputs(batch, self.normalize, device)
        mixed_targets = targets
        if batch.start == 0:  # mixing is of images
            inputs, mixed_targets = self._mix(inputs, targets)
        total = self._sum_over_processes(self._objective.normalizer(mixed_targets, weights))
        loss_sum, logits = self._backward_in_memory(
            inputs, mixed_targets, weights, total, batch.start
        )
        sums = self._sum_over_processes(
            torch.stack(
                [
                    loss_sum,
                    ((logits.argmax(dim=1) == targets) * weights).sum(),
                    weights.sum(),
                    torch.full((), float(stop_requested), device=device),
                ]
            )
        )
        loss = sums[0] / total
        figures = _Read(torch.cat([loss[None], sums[1:]]))
        if self._guarded:
            # The optimizer leaves the weights alone, on the device: to look at the loss first would
            # keep a GPU waiting for what it is to do next.
            self.optimizer.found_inf = (~loss.isfinite()).float()  # type: ignore[attr-defined]
        if not self._guarded or self._linear_step.has_recorded:
            self._check_finite(figures, batch, state)
        self._clip()
        self._linear_step.take()
        if self.accelerator.scaler is None:
            self.optimizer.step()  # Accelerate's would look for packages in each step
        else:
            self._prepared_optimizer.step()
        self._check_finite(figures, batch, state)
        if self.ema is not None:
            self.ema.update_parameters(self.model.model)
        value, correct, count, stops = figures.values
        self.stop_agreed = stops > 0
        state.stats.loss_sum += value * count
        state.stats.correct += int(correct)
        state.stats.images += int(count)
        state.stats.seconds += time.perf_counter() - started
        state.batch += 1
        state.step += 1
        return int(count)

    def _clip(self) -> None:
        if self._clip_norm is None:
            return
        self.accelerator.unscale_gradients()
        self._linear_step.clip(self._clip_norm)

    @property
    def _guarded(self) -> bool:
        """Whether the optimizer looks at `found_inf`: fused ones do, and the scaler of float16 has
        its own use for it."""
        fused = all(group.get("fused") for group in self.optimizer.param_groups)
        return fused and self.accelerator.scaler is None

    def _check_finite(self, figures: _Read, batch: Batch, state: TrainState) -> None:
        value = figures.values[0]
        if not math.isfinite(value):
            raise TrainingError(self._not_finite(value, batch, state))

    def check_weights(self, state: TrainState) -> None:
        """Before they are saved: a step with a finite loss may have spoiled them.

        Raises:
            TrainingError: a weight is no longer a number.
        """
        if not all(is_finite(weight) for weight in self.model.parameters()):
            raise TrainingError(
                f"weights contain NaN or Inf in epoch {state.epoch}, after batch "
                f"{state.batch}; they are not saved. {_LOWER_THE_RATE}"
            )

    def _backward_in_memory(
        self, inputs: Tensor, targets: Tensor, weights: Tensor, total: Tensor, start: int
    ) -> tuple[Tensor, Tensor]:
        """`_backward`; with `auto_batch`, in ever smaller pieces until they fit."""
        while True:
            try:
                with self._linear_step.record(len(inputs)):
                    return self._backward(inputs, targets, weights, total, start)
            except Exception as error:
                size = min(self.micro_batch_size or len(inputs), len(inputs))
                if not (self._auto_batch and size > 1 and should_reduce_batch_size(error)):
                    raise
                self.micro_batch_size = -(-size // 2)
            clear_device_cache(garbage_collection=True)

    def _backward(
        self, inputs: Tensor, targets: Tensor, weights: Tensor, total: Tensor, start: int
    ) -> tuple[Tensor, Tensor]:
        """Gradients of the mean over the whole batch of all processes, piece by piece."""
        self.optimizer.zero_grad(set_to_none=True)
        pieces = range(0, len(inputs), self.micro_batch_size or len(inputs))
        loss_sum, logits = torch.zeros((), device=inputs.device), []
        for first in pieces:
            piece = slice(first, first + pieces.step)
            last = first == pieces[-1]
            # Gradients are exchanged once, with the last piece.
            with nullcontext() if last else self.accelerator.no_sync(self._prepared):
                with self.accelerator.autocast():
                    outputs = self._prepared(inputs[piece], start)
                losses = self._objective.per_sample_loss(outputs.float(), targets[piece])
                losses = losses * weights[piece]
                # Processes' gradients are averaged, so that each counts as many times.
                loss = losses.sum() * self.accelerator.num_processes / total
                if self.accelerator.scaler is None:
                    loss.backward()
                else:
                    self.accelerator.backward(loss)
            loss_sum = loss_sum + losses.detach().sum()
            logits.append(outputs.detach())
        return loss_sum, torch.cat(logits)

    def _set_rates(self, factor: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor

    def _sum_over_processes(self, tensor: Tensor) -> Tensor:
        if self.accelerator.num_processes == 1:
            return tensor
        summed: Tensor = self.accelerator.reduce(tensor, reduction="sum")
        return summed

    def _not_finite(self, value: float, batch: Batch, state: TrainState) -> str:
        files = [self._names(int(index)) for index in batch.indices]
        return (
            f"the loss is {value} in epoch {state.epoch}, batch {state.batch + 1}; no step "
            f"was taken. {_LOWER_THE_RATE} or look at its files: {', '.join(files)}"
        )


def check_validation(loss: float, epoch: int) -> None:
    """Raise TrainingError where the weights that an epoch came to give no numbers."""
    if not math.isfinite(loss):
        raise TrainingError(
            f"the validation loss is {loss} after epoch {epoch}; its weights are not saved. "
            f"{_LOWER_THE_RATE}"
        )
