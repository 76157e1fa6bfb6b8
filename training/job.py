"""A data set with the machine that works on it: what training, evaluation and search share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from accelerate import Accelerator
from torch import Tensor, nn

from models.freezing import layer_learning_rates, layers
from models.spec import ModelSpec
from models.vgg19 import Normalize, empty
from training.augment import ImageAugmentation
from training.config import TrainConfig
from training.console import Reporter
from training.data import ImageData, ImageDataset, load_images, make_loader
from training.engine import Batch, predict
from training.sampling import EpochBatches, balanced_probabilities, epoch_order
from training.sources import Split


def load_data(config: TrainConfig, reporter: Reporter) -> ImageData:
    """The images of `config.data`, checked and split as `config` says."""
    return load_images(
        config.data,
        config.preprocessing(),
        label_column=config.label_column,
        image_column=config.image_column,
        val_fraction=config.val_fraction,
        test_fraction=config.test_fraction,
        max_bad_fraction=config.max_bad_fraction,
        seed=config.seed,
        reporter=reporter,
    )


@dataclass(frozen=True)
class Job:
    """A configuration, its data, and where the arithmetic happens."""

    config: TrainConfig
    data: ImageData
    accelerator: Accelerator
    reporter: Reporter

    @cached_property
    def spec(self) -> ModelSpec:
        return ModelSpec(labels=self.data.labels, preprocessing=self.config.preprocessing())

    @cached_property
    def layer_names(self) -> list[str]:
        return list(layers(empty(num_classes=2)))

    def learning_rates(self) -> dict[str, float]:
        assert self.config.pretrained_learning_rate is not None  # `resolved` filled it in
        return layer_learning_rates(
            self.layer_names,
            head=self.config.learning_rate,
            pretrained=self.config.pretrained_learning_rate,
            decay=self.config.layer_decay,
        )

    def normalize(self) -> Normalize:
        return Normalize(self.spec.preprocessing).to(self.accelerator.device)

    def dataset(self, split: Split) -> ImageDataset:
        config = self.config
        augmentation = ImageAugmentation(
            config.augment,
            config.image_size,
            crop_scale=config.crop_scale,
            horizontal_flip=config.horizontal_flip,
            random_erasing=config.random_erasing,
            seed=config.seed,
        )
        return ImageDataset(
            self.data.split(split),
            self.spec.labels,
            self.spec.preprocessing,
            augmentation if split == "train" else None,
        )

    def file_name(self, index: int) -> str:
        return str(self.data.split("train")[index].path)

    def epoch_batches(self, split: Split, epoch: int, *, start: int = 0) -> EpochBatches:
        """This process's batches: of the training images shuffled, of others in their order."""
        count = len(self.data.split(split))
        order: list[int] = list(range(count))
        if split == "train":
            probabilities = None
            if self.config.balanced_sampling:
                targets = self.dataset(split).targets
                probabilities = balanced_probabilities(targets, len(self.data.labels))
            order = epoch_order(
                count, seed=self.config.seed, epoch=epoch, probabilities=probabilities
            )
        return EpochBatches(
            order,
            self.config.batch_size,
            first_number=epoch * count,
            start=start,
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
        )

    def load(self, split: Split, batches: EpochBatches) -> Iterable[Batch]:
        return make_loader(
            self.dataset(split), batches, self.accelerator.device, self.config.num_workers
        )

    def predict(
        self, model: nn.Module, split: Split, *, shared: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Logits float32[N,C] and targets int64[N] of a split.

        Args:
            shared: by all processes, each doing its part; else by this one alone.
        """
        count = len(self.data.split(split))
        batches = (
            self.epoch_batches(split, epoch=0)
            if shared
            else EpochBatches(range(count), self.config.batch_size)
        )
        with self.reporter.progress(f"evaluating on {split}", count) as advance:
            return predict(
                self.accelerator,
                model,
                self.normalize(),
                self.load(split, batches),
                gather=shared,
                on_batch=lambda images: advance(images, ""),
            )
