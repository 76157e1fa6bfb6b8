"""How many images are run at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from serving.engine.providers import Provider, device_name

LARGEST_BATCH = 32
# Images of 224 px for each thread: with two threads, batches of 4 are as fast as larger ones, and
# 7% faster than single images (docs/benchmarks.md). 16 take 1.3 GB, which leaves room for a second
# model, while it replaces the first, in the 4 GB of deploy/kubernetes.
_IMAGES_A_THREAD, _MOST_IMAGES, _PIXELS = 2, 16, 224**2


def default_batch_size(*, on_gpu: bool, image_size: int, threads: int) -> int:
    """The largest batch where none is asked for, 1..32.

    On the CPU a large batch takes memory, about 40 MB an image of 224 px, and its first image waits
    for its last one, for no gain in speed. Small images are another matter: what they cost is
    reading the weights of FC1 and FC2, which a batch does once.

    Args:
        image_size: px, the side of the model's square input.
        threads: of one batch, on the CPU.
    """
    if on_gpu:
        return LARGEST_BATCH
    pixels = min(_IMAGES_A_THREAD * threads, _MOST_IMAGES) * _PIXELS
    return min(max(pixels // image_size**2, 1), LARGEST_BATCH)


def default_concurrency(provider: Provider) -> int:
    """Batches beside each other where nothing else is asked for: on a GPU, one is copied to its
    memory while the other one runs."""
    return 1 if device_name(provider) == "cpu" else 2


def batch_buckets(max_batch_size: int) -> list[int]:
    """The batch sizes that a GPU session runs: 1, 2, 4, ... and `max_batch_size`."""
    buckets = [1]
    while buckets[-1] * 2 < max_batch_size:
        buckets.append(buckets[-1] * 2)
    if buckets[-1] < max_batch_size:
        buckets.append(max_batch_size)
    return buckets


def stack(images: Sequence[NDArray[np.uint8]], size: int) -> NDArray[np.uint8]:
    """The images as one array, with blank ones up to `size`."""
    batch = np.empty((size, *images[0].shape), np.uint8)
    np.stack(images, out=batch[: len(images)])
    batch[len(images) :] = 0
    return batch
