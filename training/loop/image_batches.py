"""Batches of images, decoded and augmented as they are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from training.data.batch import Batch
from training.data.dataset import make_loader
from training.data.sources import Split
from training.loop.context import TrainContext
from training.loop.inference import evaluation_batch_size


@dataclass(frozen=True)
class ImageBatches:
    """A `BatchSource` whose batches are images: uint8[N,S,S,3], `start` is 0."""

    context: TrainContext

    def batches(
        self,
        split: Split,
        epoch: int = 1,
        *,
        start: int = 0,
        images: Sequence[int] | None = None,
        shared: bool = True,
    ) -> Iterable[Batch]:
        context, device = self.context, self.context.accelerator.device
        size = evaluation_batch_size(device, context.config.micro_batch_size)
        draws = context.draws(
            split, epoch, start=start, images=images, shared=shared, evaluation_batch_size=size
        )
        return make_loader(context.dataset(split), draws, device, context.config.num_workers)

    def features(self, split: Split, epoch: int = 1) -> None:
        return None
