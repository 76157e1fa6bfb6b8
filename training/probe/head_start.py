"""What the head of a run begins with: a ridge regression on what goes into it, or random weights.

Linear probe, then fine-tune: Kumar et al. 2022, arXiv:2202.10054. From a random head, the first
steps change good features to suit it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from models.linear.head_fit import HeadFit, fit_head
from models.linear.ridge import Design, Integers
from training.data.batch import BatchSource
from training.features.batches import CachedFeatures
from training.loop.config import TrainConfig
from training.loop.context import TrainContext
from training.loop.inference import network_inputs
from training.loop.processes import Processes
from training.loop.setup import trainable_in
from training.loop.trainer import RunningStats, Trainer
from training.probe.judge import k_fold
from training.probe.units import units_together

# Fitted to at most, where features aren't in the cache's file but in memory: 0.7 GB of 4,096
# float32, ten for each of them.
MAX_IMAGES = 40_000


# Of the cross-validation in the report. Of more images leaving one out says enough, and a fit takes
# time of the cube of their number.
FOLDS, FOLDS_UP_TO = 5, 1000


@dataclass(frozen=True)
class HeadStart:
    """A head that was fitted.

    Args:
        stats: what the predictions that leave an image out are worth, by the loss that the epochs
            train on.
        folds: see `k_fold`; none of many images, nor of very few.
    """

    stats: RunningStats
    folds: list[tuple[int, int]]

    def figures(self) -> dict[str, Any]:
        """For metrics.json."""
        return {
            "images": self.stats.images,
            "leave_one_out_right": self.stats.correct,
            "folds": [{"right": right, "images": images} for right, images in self.folds],
        }


def start_head(
    trainer: Trainer, source: CachedFeatures, context: TrainContext, processes: Processes
) -> HeadStart | None:
    """Put the closed-form fit to the training images' features into the head, and tell; all
    processes call it, and the main one fits.

    Where the head alone trains, the features are those that the first epoch trains on; else the
    network computes them, without dropout, from what the first epoch sees.

    Returns:
        how good it is on images that it wasn't fitted to; None where the head stays random, which
        is told where a fit was asked for.

    Raises:
        StopNow: a signal has asked for it.
    """
    config = context.config
    reason = _reason_against(config)
    if reason is not None:
        if config.strategy == "head" or config.head_init != "random":
            context.reporter.say(f"the head starts with random weights: {reason}")
        return None
    alone = trainable_in(context, epoch=1) == {context.architecture.head}
    features = source.features("train") if alone else None  # which all processes help to compute
    started = time.monotonic()

    def fitted() -> tuple[HeadFit, list[tuple[int, int]]]:
        if features is None:
            design = _design(*_computed(trainer.inference_model, source, context), context)
        else:
            design = _design(features, np.arange(len(features)), context)
        return fit_head(design, config.label_smoothing), _folds(design, config.seed)

    head, folds = processes.from_main(fitted)
    for network in (trainer.model.model, trainer.inference_model):  # two, with an average
        _put(head, context.architecture.layers(network)[context.architecture.head])
    seconds = time.monotonic() - started
    context.reporter.say(
        f"the head starts with a ridge regression on {head.weight.shape[1]:,} features of "
        f"{head.images:,} images, fitted in {seconds:.1f} s: {head.correct / head.images:.1%} "
        "right by leaving one out (epoch 0)"
    )
    stats = RunningStats(
        loss_sum=head.loss * head.images,
        correct=head.correct,
        images=head.images,
        seconds=seconds,
    )
    return HeadStart(stats, folds)


def _folds(design: Design, seed: int) -> list[tuple[int, int]]:
    units = len(design) if design.units is None else len(np.unique(design.units))
    if units < 2 * FOLDS or len(design) > FOLDS_UP_TO:
        return []
    return k_fold(design, FOLDS, seed)


def _reason_against(config: TrainConfig) -> str | None:
    if config.head_init == "random":
        return "head_init is random"
    if config.class_weights == "balanced" or config.balanced_sampling:
        return "the fit would not balance the classes"
    if config.mixup or config.cutmix:
        return "the fit would not mix images"
    return None


def _computed(
    network: nn.Module, source: BatchSource, context: TrainContext
) -> tuple[NDArray[np.float32], Integers]:
    """What goes into the head, float32[n,p], of `MAX_IMAGES` training images at most, and which
    these are, int64[n]."""
    count = len(context.data.split("train"))
    rows = np.linspace(0, count - 1, min(count, MAX_IMAGES)).astype(np.int64)
    architecture, device = context.architecture, context.accelerator.device
    head = architecture.index(network, architecture.head)
    parts: list[NDArray[np.float32]] = []
    network.eval()
    with context.reporter.progress("features of the head", len(rows)) as advance:
        for batch in source.batches("train", images=rows.tolist(), shared=False):
            with torch.inference_mode(), context.accelerator.autocast():
                inputs = network_inputs(batch, context.normalize, device)
                outputs = architecture.run(network, inputs, batch.start, head)
            parts.append(outputs.float().cpu().numpy()[batch.weights.numpy() > 0])
            advance(len(parts[-1]), "")
            context.check_stop()
    return np.concatenate(parts), rows


def _design(features: NDArray[np.generic], rows: Integers, context: TrainContext) -> Design:
    targets = np.array(context.dataset("train").targets, np.int64)
    units = units_together(context.data, context.reporter)
    return Design(
        cast(NDArray[np.floating], features.reshape(len(features), -1)),
        targets[rows],
        len(context.data.labels),
        None if units is None else units[rows],
    )


@torch.no_grad()
def _put(fitted: HeadFit, head: nn.Module) -> None:
    assert isinstance(head, nn.Linear)
    head.weight.copy_(torch.from_numpy(fitted.weight))
    head.bias.copy_(torch.from_numpy(fitted.bias))
