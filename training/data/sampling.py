"""Which image is in which batch: a function of (seed, epoch) alone, shared out among processes.

Nothing here has a state, so a run continued in the middle of an epoch, and a run on two processes,
see the same batches as the plain run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Sampler


class Draw(NamedTuple):
    """One place in a batch: which image, and what its augmentation is seeded by.

    `weight` is 1, or 0 for a filler in a process that has no image of a short last batch.
    """

    image: int
    augmentation_seed: int
    weight: float = 1.0


def derive_seed(*parts: int | str) -> int:
    """A seed for one purpose, 0..2**32-1: PyTorch's generator on the CPU drops all higher bits."""
    digest = hashlib.sha256(":".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:4], "big")


def epoch_order(
    count: int, *, seed: int, epoch: int, probabilities: Tensor | None = None
) -> list[int]:
    """The images of an epoch in their order: each once, or drawn with `probabilities`.

    Args:
        probabilities: float64[count], for balanced sampling; images are then drawn with
            replacement.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "order", epoch))
    if probabilities is not None:
        drawn = torch.multinomial(probabilities, count, replacement=True, generator=generator)
        return [int(index) for index in drawn]
    return [int(index) for index in torch.randperm(count, generator=generator)]


class EpochBatches(Sampler[list[Draw]]):
    """This process's share of each batch of an epoch.

    A batch of `batch_size` is dealt out like cards, so each image of the epoch is seen once over
    all processes, also where the numbers don't divide.

    Args:
        order: see `epoch_order`.
        first_seed: of the augmentation of the first image; seeds go on from there.
        start: the batch to begin with.
    """

    def __init__(
        self,
        order: Sequence[int],
        batch_size: int,
        *,
        first_seed: int = 0,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._order = order
        self._first_seed = first_seed
        self._batch_size = batch_size
        self._start = start
        self._rank = rank
        self._world_size = world_size

    def __len__(self) -> int:
        return max(0, -(-len(self._order) // self._batch_size) - self._start)

    def __iter__(self) -> Iterator[list[Draw]]:
        for first in range(self._start * self._batch_size, len(self._order), self._batch_size):
            images = self._order[first : first + self._batch_size]
            batch = [Draw(image, self._first_seed + first + i) for i, image in enumerate(images)]
            # A collective operation needs every process: one without an image gets a filler.
            yield batch[self._rank :: self._world_size] or [batch[0]._replace(weight=0.0)]


def balanced_probabilities(targets: Sequence[int], num_classes: int) -> Tensor:
    """float64[N]: with these, every class is drawn equally often."""
    counts = torch.bincount(torch.tensor(targets), minlength=num_classes).double()
    return (1 / counts)[torch.tensor(targets)] / num_classes


def balanced_class_weights(targets: Sequence[int], num_classes: int) -> Tensor:
    """float32[C]: N / (C * count), so that every class has the same say in the loss."""
    counts = torch.bincount(torch.tensor(targets), minlength=num_classes).double()
    return (len(targets) / (num_classes * counts)).float()
