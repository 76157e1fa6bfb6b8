"""A data set with the machine that works on it: what training, evaluation and search share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property

from accelerate import Accelerator
from torch import Tensor
from torchvision.models import VGG

from models.bundle.spec import ModelSpec
from models.network.strategies import layer_learning_rates, layers
from models.network.vgg19 import Normalize, empty
from training.data.augment import ImageAugmentation
from training.data.batch import Batch
from training.data.dataset import ImageDataset, make_loader
from training.data.image_data import ImageData, load_images
from training.data.sampling import EpochBatches, balanced_probabilities, epoch_order
from training.data.sources import Split
from training.loop.config import TrainConfig
from training.loop.signals import StopNow, StopRequest
from training.loop.trainer import evaluation_batch_size, predict
from training.reporter import Reporter


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
        reporter=reporter,
    )


@dataclass(frozen=True)
class TrainContext:
    """A configuration, its data, and where the arithmetic happens."""

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
        return ImageDataset(
            self.data.split(split),
            self.spec.labels,
            self.spec.preprocessing,
            self.augmentation() if split == "train" else None,
        )

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

    def load(self, split: Split, batches: EpochBatches) -> Iterable[Batch]:
        return make_loader(
            self.dataset(split), batches, self.accelerator.device, self.config.num_workers
        )

    def predict(
        self,
        model: VGG,
        split: Split,
        *,
        shared: bool = True,
        load: Callable[[Split, EpochBatches], Iterable[Batch]] | None = None,
        batch_size: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Logits float32[N,C] and targets int64[N] of a split.

        Args:
            shared: by all processes, each doing its part; else by this one alone.
            load: where batches come from; default: the images.
            batch_size: default: what suits the device for images.
        """
        count = len(self.data.split(split))
        device = self.accelerator.device
        batches = EpochBatches(
            range(count),
            batch_size or evaluation_batch_size(device, self.config.micro_batch_size),
            rank=self.accelerator.process_index if shared else 0,
            world_size=self.accelerator.num_processes if shared else 1,
        )
        with self.reporter.progress(f"evaluating on {split}", count) as advance:

            def on_batch(images: int) -> None:
                advance(images, "")
                self.check_stop()

            return predict(
                self.accelerator,
                model,
                self.normalize(),
                (load or self.load)(split, batches),
                gather=shared,
                on_batch=on_batch,
            )
