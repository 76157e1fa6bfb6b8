"""The worst mistakes of a report: the pictures, and what in them spoke for the wrong label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.imaging.overlay import overlaid
from models.network.grad_cam import grad_cam
from training.data.batch import BatchSource
from training.loop.context import TrainContext
from training.loop.inference import network_inputs
from training.loop.precision import frozen_autocast, frozen_precision
from training.reports.html_page import picture

_WORST = 24
_BATCH = 8


@dataclass(frozen=True)
class Mistake:
    """An image that got a wrong label. The pictures are PNG, the second one with the heat map of
    the label that was said; None where a map would be a single value, as at 32 pixels."""

    name: str
    label: str
    said: str
    probability: float
    plain: bytes
    explained: bytes | None


def worst_mistakes(
    model: nn.Module,
    source: BatchSource,
    context: TrainContext,
    probabilities: Tensor,
    targets: Tensor,
) -> list[Mistake]:
    """The wrong answers that gave the true label the least probability, the worst first.

    Args:
        source: where the predictions came from; what is cached there isn't computed again.
        probabilities: float32[N,C] of the held-out images, in their order. targets: int64[N].
    """
    predicted = probabilities.argmax(dim=1)
    truth = probabilities.gather(1, targets[:, None]).squeeze(1)
    wrong = (predicted != targets).nonzero().squeeze(1).tolist()
    wrong = sorted(wrong, key=lambda index: float(truth[index]))[:_WORST]
    dataset = context.dataset(context.data.held_out)
    images = [dataset.pixels(index).numpy() for index in wrong]
    model.eval()
    maps = _maps_of_features(model, source, context, wrong, predicted[wrong])
    if maps is None:
        maps = _heat_maps(model, context, images, predicted[wrong])
    return [
        Mistake(
            name=dataset.samples[index].path.name,
            label=context.data.labels[int(targets[index])],
            said=context.data.labels[int(predicted[index])],
            probability=float(probabilities[index].max()),
            plain=picture(image),
            explained=picture(overlaid(image, heat_map)) if heat_map.size > 1 else None,
        )
        for index, image, heat_map in zip(wrong, images, maps, strict=True)
    ]


def _maps_of_features(
    model: nn.Module,
    source: BatchSource,
    context: TrainContext,
    images: Sequence[int],
    classes: Tensor,
) -> list[NDArray[np.float32]] | None:
    """Without the frozen convolutions, which take a second; None where what is cached isn't enough.

    Args:
        images: numbers in the held-out split. classes: int64[n], of each map.
    """
    split, architecture = context.data.held_out, context.architecture
    if not images or source.features(split) is None:
        return None
    device, maps, done = context.accelerator.device, list[NDArray[np.float32]](), 0
    for batch in source.batches(split, images=images, shared=False):
        features = network_inputs(batch, context.normalize, device)
        found = architecture.before_pooling(model, features, batch.start, context.config.image_size)
        if found is None:
            return None
        targets = classes[done : done + len(features)].to(device)
        with context.accelerator.autocast():
            batch_maps = grad_cam(architecture, model, found[0], targets, found[1])
        maps += [*batch_maps.float().cpu().numpy()]
        done += len(features)
    return maps


def _heat_maps(
    model: nn.Module, context: TrainContext, images: Sequence[NDArray[np.uint8]], classes: Tensor
) -> list[NDArray[np.float32]]:
    normalize, device = context.normalize, context.accelerator.device
    precision = frozen_precision(context.config.mixed_precision, context.accelerator)
    maps: list[NDArray[np.float32]] = []
    for start in range(0, len(images), _BATCH):
        batch = torch.from_numpy(np.stack(images[start : start + _BATCH])).to(device)
        targets = classes[start : start + _BATCH].to(device)
        with frozen_autocast(precision, context.accelerator):  # a picture shows no third digit
            found = grad_cam(context.architecture, model, normalize(batch), targets)
        maps += [*found.float().cpu().numpy()]
    return maps
