"""A data set with the machine that works on it: what training, evaluation and search share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from accelerate import Accelerator
from torch import Tensor, nn

from models.bundle.spec import ModelSpec
from models.network.architecture import Architecture
from models.network.architectures import architecture
from models.network.normalize import Normalize
from models.network.strategies import layer_learning_rates
from training.data.augment import ImageAugmentation
from training.data.batch import BatchSource
from training.data.dataset import ImageDataset
from training.data.image_data import ImageData, load_images
from training.data.sampling import EpochBatches, balanced_probabilities, epoch_order
from training.data.sources import SPLITS, Split
from training.loop.config import TrainConfig
from training.loop.inference import predict
from training.loop.signals import StopNow, StopRequest
from training.reporter import Reporter


def resolved(config: TrainConfig) -> TrainConfig:
    """See `TrainConfig.resolved`, which knows no network.

    Raises:
        ArchitectureError: there is no network of that name.
    """
    return config.resolved(len(architecture(config.network).blocks))


def load_data(config: TrainConfig, reporter: Reporter) -> ImageData:
    """The images of `config.data`, checked and split as `config` says."""
    return load_images(
        config.data,
        config.preprocessing(),
        columns=config.columns(),
        val_fraction=config.val_fraction,
        test_fraction=config.test_fraction,
        max_bad_fraction=config.max_bad_fraction,
        allow_conflicting_labels=config.allow_conflicting_labels,
        seed=config.seed,
        split_by=config.split_by,
        exclude=config.exclude,
        reporter=reporter,
    )


@dataclass(frozen=True)
class TrainContext:
    """A configuration, its data, and where the arithmetic happens.

    Data sets, augmentation and normalisation are made once, when they are first asked for.
    """

    config: TrainConfig
    data: ImageData
    accelerator: Accelerator
    reporter: Reporter
    stop: StopRequest = field(default_factory=StopRequest)

    def check_stop(self) -> None:
        """To be called in long work between steps, which a resumed run does again or finds done.

        Raises:
            StopNow: a signal has asked for it. Not where processes train together: the others
                would wait; they agree on it in the next step.
        """
        if self.stop.requested and self.accelerator.num_processes == 1:
            raise StopNow

    @cached_property
    def architecture(self) -> Architecture:
        return architecture(self.config.network)

    @cached_property
    def spec(self) -> ModelSpec:
        return ModelSpec(
            architecture=self.architecture.name,
            labels=self.data.labels,
            preprocessing=self.config.preprocessing(),
            heat_map_side=self.architecture.heat_map_side(self.config.image_size),
        )

    def learning_rates(self) -> dict[str, float]:
        assert self.config.pretrained_learning_rate is not None  # `resolved` filled it in
        return layer_learning_rates(
            self.architecture.layer_names,
            head=self.config.learning_rate,
            pretrained=self.config.pretrained_learning_rate,
            decay=self.config.layer_decay,
        )

    @cached_property
    def normalize(self) -> Normalize:
        """On the device that computes."""
        return Normalize(self.spec.preprocessing).to(self.accelerator.device)

    @cached_property
    def augmentation(self) -> ImageAugmentation:
        config = self.config
        return ImageAugmentation(
            config.augment,
            self.spec.preprocessing,
            crop_scale=config.crop_scale,
            horizontal_flip=config.horizontal_flip,
            random_erasing=config.random_erasing,
            seed=config.seed,
        )

    @cached_property
    def _datasets(self) -> dict[Split, ImageDataset]:
        return {
            split: ImageDataset(
                self.data.split(split),
                self.spec.labels,
                self.spec.preprocessing,
                self.augmentation if split == "train" else None,
            )
            for split in SPLITS
        }

    def dataset(self, split: Split) -> ImageDataset:
        """The images of a split; those of training are augmented."""
        return self._datasets[split]

    def file_name(self, index: int) -> str:
        return str(self.data.split("train")[index].path)

    def epoch_batches(self, epoch: int, *, start: int = 0) -> EpochBatches:
        """This process's batches of the training images, shuffled."""
        targets = self.dataset("train").targets
        probabilities = None
        if self.config.balanced_sampling:
            probabilities = balanced_probabilities(targets, len(self.data.labels))
        return EpochBatches(
            epoch_order(
                len(targets), seed=self.config.seed, epoch=epoch, probabilities=probabilities
            ),
            self.config.batch_size,
            first_seed=epoch * len(targets),
            start=start,
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
        )

    def draws(
        self,
        split: Split,
        epoch: int,
        *,
        start: int,
        images: Sequence[int] | None,
        shared: bool,
        evaluation_batch_size: int,
    ) -> EpochBatches:
        """Which images are in which batch, as `BatchSource.batches` is asked for them.

        Args:
            evaluation_batch_size: of all but an epoch's training images, whose batches are of
                `batch_size`.
        """
        if split == "train" and images is None:
            return self.epoch_batches(epoch, start=start)
        return EpochBatches(
            range(len(self.data.split(split))) if images is None else images,
            evaluation_batch_size,
            start=start,
            rank=self.accelerator.process_index if shared else 0,
            world_size=self.accelerator.num_processes if shared else 1,
        )

    def predict(
        self, source: BatchSource, model: nn.Module, split: Split, *, shared: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Logits float32[N,C] and targets int64[N] of a split.

        Args:
            source: where the batches come from.
            shared: by all processes, each doing its part; else by this one alone.
        """
        with self.reporter.progress(
            f"evaluating on {split}", len(self.data.split(split))
        ) as advance:

            def on_batch(images: int) -> None:
                advance(images, "")
                self.check_stop()

            return predict(
                self.accelerator,
                self.architecture,
                model,
                self.normalize,
                source.batches(split, shared=shared),
                gather=shared,
                on_batch=on_batch,
            )
