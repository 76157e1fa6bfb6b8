"""What the head of a run begins with, under the strategy that trains it alone."""

from __future__ import annotations

import time
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from training.features.batches import CachedFeatures
from training.loop.context import TrainContext
from training.loop.processes import Processes
from training.loop.setup import trainable_in
from training.loop.trainer import RunningStats, Trainer
from training.probe.head_fit import HeadFit, fit_head
from training.probe.ridge import Design
from training.probe.units import units_together


def start_head(
    trainer: Trainer, source: CachedFeatures, context: TrainContext, processes: Processes
) -> RunningStats | None:
    """Put the closed-form fit to the training images' features into the head, and tell; all
    processes call it, and the main one fits.

    The features are those that the first epoch trains on.

    Returns:
        what the predictions that leave an image out are worth; None where the head stays random,
        which is told under strategy `head`.

    Raises:
        StopNow: a signal has asked for it.
    """
    if context.config.strategy != "head":
        return None
    reason = _reason_against(context)
    features = source.features("train") if reason is None else None
    started = time.monotonic()
    # Asked for by all of them, also where one has no features.
    fitted = processes.from_main(
        lambda: None if features is None else fit_head(_design(features, context))
    )
    if fitted is None:
        reason = reason or "features aren't cached"
        context.reporter.say(f"the head starts with random weights: {reason}")
        return None
    for network in (trainer.model.model, trainer.inference_model):  # two, with an average
        _put(fitted, context.architecture.layers(network)[context.architecture.head])
    seconds = time.monotonic() - started
    context.reporter.say(
        f"the head starts with a ridge regression on {fitted.weight.shape[1]:,} features of "
        f"{fitted.images:,} images, fitted in {seconds:.1f} s: {fitted.correct / fitted.images:.1%}"
        " right by leaving one out (epoch 0)"
    )
    return RunningStats(
        loss_sum=fitted.loss * fitted.images,
        correct=fitted.correct,
        images=fitted.images,
        seconds=seconds,
    )


def _reason_against(context: TrainContext) -> str | None:
    config = context.config
    if config.head_init == "random":
        return "head_init is random"
    if trainable_in(context, epoch=1) != {context.architecture.head}:
        return "other layers train as well"
    if config.class_weights == "balanced" or config.balanced_sampling:
        return "the fit would not balance the classes"
    if config.mixup or config.cutmix:
        return "mixup and cutmix need images"
    return None


def _design(features: NDArray[np.generic], context: TrainContext) -> Design:
    targets = np.array(context.dataset("train").targets, np.int64)
    units = units_together(context.data, context.reporter)
    rows = features.reshape(len(features), -1)
    return Design(cast(NDArray[np.floating], rows), targets, len(context.data.labels), units)


@torch.no_grad()
def _put(fitted: HeadFit, head: nn.Module) -> None:
    assert isinstance(head, nn.Linear)
    head.weight.copy_(torch.from_numpy(fitted.weight))
    head.bias.copy_(torch.from_numpy(fitted.bias))
