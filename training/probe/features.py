"""What the frozen network makes of the training images at every depth, in one pass over them."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from models.errors import UserError
from models.network.architecture import Architecture
from training.features.cache import FeatureFile, FeatureKey, default_root, evict
from training.features.filling import fill, for_inference, weights_digest, what_values_depend_on
from training.loop.context import TrainContext
from training.loop.inference import evaluation_batch_size
from training.loop.precision import Precision, frozen_precision

# A block's maps are averaged over so many fields across, or fewer, down to one, so that an image
# has at most so many values there. Leave-one-out accuracy in percent with 1, 2, 3, 4 and 6 fields
# across, weights trained on 3,000 images of MNIST, or random:
#
#                                block 1          block 2          block 3          block 4
# 450 digits, 32 px, MNIST       91 97 98 99 98   96 98 99 99 99   97 98 98 99      97 98
# 450 digits, 32 px, random      88 98 98 98 98   96 98 98 98 99   97 99 98 98      96 97
# 785 stamps, 64 px, MNIST       56 58 60 59 59   59 59 62 60 60   57 62 61 62 62   52 57 57 59
# 785 stamps, 64 px, random      57 59 60 59 59   57 60 61 60 60   58 60 62 61 62   57 61 62 62
#
# (Intervals of 1 point for scikit-learn's digits and 3.5 for the stamps of Tux Paint.)
MAX_SIDE = 4
MAX_VALUES = 4096

_FLOAT16_MAX = float(np.finfo(np.float16).max)


class ProbeError(UserError):
    """The features can't be cached, or say nothing."""


@dataclass(frozen=True)
class Depth:
    """A place in the network at which features are taken.

    Args:
        name: `block 1`, the one next to the images, ...; `FC1`, ...
        index: in the network's sequence, of the module that these features would go into.
        side: fields across that the maps are averaged over; None: there are no maps any more.
        first: column of its first value among those of all depths.
        values: of an image.
    """

    name: str
    index: int
    side: int | None
    first: int
    values: int

    @property
    def columns(self) -> slice:
        return slice(self.first, self.first + self.values)


def depths(architecture: Architecture, image_size: int) -> tuple[Depth, ...]:
    """After each block of convolutions and each fully connected layer but the head, from the images
    on."""
    found = []
    for name, index in _places(architecture):
        shape = architecture.shape_before(index, image_size)
        side = _side(shape) if len(shape) == 3 else None
        found.append((name, index, side, shape[0] * (side or 1) ** 2))
    firsts = accumulate((values for *_, values in found), initial=0)
    return tuple(
        Depth(name, index, side, first, values)
        for (name, index, side, values), first in zip(found, firsts, strict=False)
    )


def _places(architecture: Architecture) -> Iterator[tuple[str, int]]:
    empty = architecture.empty(num_classes=1)
    blocks = architecture.blocks[::-1]
    for number, (_, above) in enumerate(pairwise(blocks), start=1):
        yield f"block {number}", architecture.index(empty, above[0])
    yield f"block {len(blocks)}", architecture.index(empty, architecture.pooling)
    for number, layer in enumerate(architecture.fully_connected[1:], start=1):
        yield f"FC{number}", architecture.index(empty, layer)


def _side(shape: tuple[int, ...]) -> int:
    channels, height, width = shape
    return max(1, min(MAX_SIDE, math.isqrt(MAX_VALUES // channels), height, width))


class _AllDepths:
    """The network up to its head, asked at every depth."""

    def __init__(self, network: list[tuple[str, nn.Module]], places: tuple[Depth, ...]) -> None:
        self._places = places
        edges = [0, *(depth.index for depth in places)]
        modules = [*for_inference(network[: edges[-1]])]
        self._stages = [nn.Sequential(*modules[low:high]) for low, high in pairwise(edges)]

    def __call__(self, inputs: Tensor) -> NDArray[np.float16]:
        """Normalised images float32[n,3,S,S] -> float16[n, values of all depths].

        What is beyond float16's range becomes its largest number.
        """
        rows = []
        for depth, stage in zip(self._places, self._stages, strict=True):
            inputs = stage(inputs)
            pooled = inputs if depth.side is None else adaptive_avg_pool2d(inputs, depth.side)
            rows.append(pooled.flatten(1).float().cpu().numpy())
        values = np.concatenate(rows, axis=1).clip(-_FLOAT16_MAX, _FLOAT16_MAX)
        return values.astype(np.float16)


def depth_features(
    context: TrainContext, model: nn.Module, places: tuple[Depth, ...]
) -> NDArray[np.float16]:
    """float16[N, values of all depths] of the training images, mapped from a file of the cache.

    What training caches is not shared with it: those are the values of one depth as they are, 100
    kB an image before FC1, and of augmented views, unless augmentation is off.

    Args:
        model: whose weights are probed; its head doesn't count.

    Raises:
        ProbeError: there is no room for them.
        OSError: the cache can't be written.
    """
    root = context.config.cache_dir or default_root()
    precision = frozen_precision(context.config.mixed_precision, context.accelerator)
    network = context.architecture.sequence(model)
    key = _key(context, network, places, precision)
    limit = int(context.config.cache_limit)
    if not evict(root, {key.digest(): key.size_bytes}, limit):
        raise ProbeError(
            f"the features of {key.count:,} images take {key.size_bytes / 1e9:.1f} GB, more than "
            f"cache_limit ({limit / 1e9:.1f} GB) or the free disk at {root} has room for; raise "
            "--cache-limit, or name another --cache-dir"
        )
    with FeatureFile(root, key) as file:
        if file.missing():
            started = time.monotonic()
            compute = _AllDepths(network, places)
            fill(file, context, "train", precision, compute, first_seed=0, bar="features")
            seconds = time.monotonic() - started
            context.reporter.say(f"features of {key.count:,} images computed in {seconds:.1f} s")
        else:
            context.reporter.say(f"features of {key.count:,} images found in {root}")
        return cast(NDArray[np.float16], file.array())


def _key(
    context: TrainContext,
    network: list[tuple[str, nn.Module]],
    places: tuple[Depth, ...],
    precision: Precision,
) -> FeatureKey:
    ingredients = {
        **what_values_depend_on(context, "train", precision),
        "before": "each depth",
        "pooling": [[depth.name, depth.side] for depth in places],
        "weights": weights_digest(network[: places[-1].index]),
        "augmentation": None,
    }
    device = context.accelerator.device
    return FeatureKey(
        ingredients,
        count=len(context.data.split("train")),
        shape=(sum(depth.values for depth in places),),
        dtype="float16",
        block_size=evaluation_batch_size(device, context.config.micro_batch_size),
    )
