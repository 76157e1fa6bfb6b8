"""What the loop is fed with, and by whom."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from training.data.sources import Split


class Batch(NamedTuple):
    """What goes into module `start` of the network's sequence, and what is to come out.

    inputs: uint8[N,S,S,3] RGB where `start` is 0, else features, float32 or float16 [N,...];
    targets: int64[N]; indices: int64[N] into the data set; weights: float32[N], 0 for fillers.
    """

    inputs: Tensor
    targets: Tensor
    indices: Tensor
    weights: Tensor
    start: int = 0


class BatchSource(Protocol):
    """Where batches come from: images (`training.loop.image_batches`), or what the frozen layers
    made of them (`training.features.batches`). Whoever asks need not know which."""

    def batches(
        self,
        split: Split,
        epoch: int = 1,
        *,
        start: int = 0,
        images: Sequence[int] | None = None,
        shared: bool = True,
    ) -> Iterable[Batch]:
        """This process's batches of a split.

        Those of training images are what an epoch trains on: shuffled and augmented. Other splits
        come in their order, the same in each epoch.

        Args:
            epoch: from 1.
            start: the batch to begin with.
            images: numbers of the only images that are wanted, in this order; training images are
                augmented all the same.
            shared: dealt out to all processes; else this one gets all.

        Raises:
            LostImageError: while the batches are read, see `training.data.dataset`.
        """
        ...

    def features(self, split: Split, epoch: int = 1) -> NDArray[np.generic] | None:
        """float[N,...] of all images of a split, as that epoch sees them; None where batches are of
        images."""
        ...
