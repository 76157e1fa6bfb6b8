"""`fine_tune(config)`: a training run, from a folder of images to checkpoints and metrics."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.models import VGG

from models.freezing import apply_strategy, parameter_groups
from models.spec import ModelSpec
from models.vgg19 import Normalize, build, initialise_from_data
from training.checkpoint import load_checkpoint, save_checkpoint
from training.config import TrainConfig, write_config
from training.console import Reporter
from training.data import ImageData, ImageDataset, Split, load_image_folder, make_loader
from training.engine import (
    choose_device,
    make_optimizer,
    make_schedule,
    predict,
    train_epoch,
)
from training.metrics import classification_metrics
from training.run import Run, check_free, record_provenance, write_held_out, write_json

# Enough for the variance estimate of `initialise_from_data`.
_INITIALISATION_IMAGES = 64
# The largest batch of the parity proof (models.onnx_export.PARITY_BATCH_SIZES).
_KEPT_HELD_OUT_IMAGES = 32


@dataclass(frozen=True)
class Job:
    """A data set, the rule for its pixels, and where the arithmetic happens."""

    config: TrainConfig
    data: ImageData
    spec: ModelSpec
    device: torch.device
    reporter: Reporter

    def normalize(self) -> Normalize:
        return Normalize(self.spec.preprocessing).to(self.device)

    def dataset(self, split: Split) -> ImageDataset:
        return ImageDataset(self.data.split(split), self.spec.labels, self.spec.preprocessing)

    def loader(
        self, split: Split, shuffle_seed: int | None = None
    ) -> DataLoader[tuple[Tensor, Tensor]]:
        return make_loader(
            self.dataset(split),
            self.config.batch_size,
            shuffle_seed=shuffle_seed,
            device=self.device,
            num_workers=self.config.num_workers,
        )

    def evaluate(self, model: VGG, split: Split) -> dict[str, Any]:
        """Metrics of `model` on a split, see `training.metrics`."""
        total = len(self.data.split(split))
        with self.reporter.progress(f"evaluating on {split}", total) as advance:
            logits, targets = predict(
                model,
                self.normalize(),
                self.loader(split),
                self.device,
                on_batch=lambda images: advance(images, ""),
            )
        return classification_metrics(logits, targets, self.spec.labels)


@dataclass(frozen=True)
class Epoch:
    """One row of `history` in metrics.json. Losses in nats, accuracies 0..1."""

    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    images_per_second: float

    @property
    def score(self) -> tuple[float, float]:
        """The better epoch has the higher one: accuracy first, then loss."""
        return (self.val_accuracy, -self.val_loss)


def fine_tune(config: TrainConfig, reporter: Reporter) -> Run:
    """Train as `config` says and fill the run directory `config.output`.

    The checkpoint with the best validation score is `best`; it is judged at the end on the
    held-out images: the test split, or validation where there is none.

    Raises:
        UserError: the configuration can't be carried out. Nothing is left behind unless an
            epoch was finished.
    """
    config = config.resolved()
    check_free(config.output)
    device = choose_device(config.device)
    data = load_data(config, reporter)
    spec = ModelSpec(labels=data.labels, preprocessing=config.preprocessing())
    job = Job(config, data, spec, device, reporter)

    torch.manual_seed(config.seed)
    model = build(config.weights, len(spec.labels)).to(device)
    if config.weights == "none":
        _initialise(model, job)
    apply_strategy(model, config.strategy)
    _describe(model, job)

    with _run_directory(job) as run:
        history = _train(model, job, run)
        best = max(history, key=lambda epoch: epoch.score)
        held_out = job.evaluate(load_checkpoint(run.best)[0].to(device), data.held_out)
        write_json(
            run.metrics,
            {
                "best_epoch": best.epoch,
                "held_out": {"split": data.held_out, **held_out},
                "history": [asdict(epoch) for epoch in history],
            },
        )
    reporter.say(
        f"accuracy on {data.held_out} ({held_out['images']} images, epoch {best.epoch}): "
        f"{held_out['accuracy']:.1%}"
    )
    return run


def load_data(config: TrainConfig, reporter: Reporter) -> ImageData:
    """The images of `config.data`, checked and split as `config` says."""
    return load_image_folder(
        config.data,
        config.preprocessing(),
        val_fraction=config.val_fraction,
        test_fraction=config.test_fraction,
        max_bad_fraction=config.max_bad_fraction,
        seed=config.seed,
        reporter=reporter,
    )


def _initialise(model: VGG, job: Job) -> None:
    """`--weights none`: scale the convolutions on a sample of the training images."""
    dataset = job.dataset("train")
    step = max(1, len(dataset) // _INITIALISATION_IMAGES)
    indices = range(0, len(dataset), step)[:_INITIALISATION_IMAGES]
    images = torch.stack([dataset[i][0] for i in indices])
    initialise_from_data(model, job.normalize()(images.to(job.device)))


def _describe(model: VGG, job: Job) -> None:
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    sizes = {split: len(job.data.split(split)) for split in ("train", "val", "test")}
    config = job.config
    job.reporter.say(
        f"VGG-19, weights {config.weights}, strategy {config.strategy}: {trainable:,} of "
        f"{total:,} parameters train; learning rate {config.learning_rate:g} (head), "
        f"{config.pretrained_learning_rate:g} (the rest); on {job.device}"
    )
    job.reporter.say(
        f"{len(job.spec.labels)} classes; {sizes['train']} images to train, {sizes['val']} to "
        f"validate, {sizes['test']} to test, at {config.image_size} px"
    )


def _train(model: VGG, job: Job, run: Run) -> list[Epoch]:
    config = job.config
    assert config.pretrained_learning_rate is not None  # `resolved` filled it in
    batches = job.loader("train", shuffle_seed=config.seed)
    optimizer = make_optimizer(
        parameter_groups(
            model,
            head_learning_rate=config.learning_rate,
            pretrained_learning_rate=config.pretrained_learning_rate,
        ),
        config.optimizer,
        weight_decay=config.weight_decay,
        momentum=config.momentum,
        device=job.device,
    )
    schedule = make_schedule(optimizer, config.schedule, config.epochs * len(batches))
    normalize = job.normalize()
    history: list[Epoch] = []
    for number in range(1, config.epochs + 1):
        name = f"epoch {number}/{config.epochs}"
        with job.reporter.progress(name, len(job.data.split("train"))) as advance:
            stats = train_epoch(
                model,
                normalize,
                batches,
                optimizer,
                schedule,
                job.device,
                on_batch=lambda size, stats: advance(
                    size, f"loss {stats.loss:.3f} accuracy {stats.accuracy:.1%}"
                ),
            )
        scores = job.evaluate(model, "val")
        epoch = Epoch(
            number,
            stats.loss,
            stats.accuracy,
            scores["loss"],
            scores["accuracy"],
            stats.images_per_second,
        )
        is_best = all(epoch.score > earlier.score for earlier in history)
        save_checkpoint(model, job.spec, run.last)
        if is_best:
            save_checkpoint(model, job.spec, run.best)
        history.append(epoch)
        write_json(run.metrics, {"history": [asdict(row) for row in history]})
        job.reporter.say(
            f"{name}  train loss {stats.loss:.3f} accuracy {stats.accuracy:6.1%}  "
            f"val loss {epoch.val_loss:.3f} accuracy {epoch.val_accuracy:6.1%}  "
            f"{stats.images_per_second:.1f} images/s{'  best so far' if is_best else ''}"
        )
    return history


@contextmanager
def _run_directory(job: Job) -> Iterator[Run]:
    """Create the run directory; remove it again if not even one epoch comes to its end."""
    run = Run(job.config.output)
    check_free(run.path)  # again: another run may have taken it since
    existed = run.path.exists()
    run.path.mkdir(parents=True, exist_ok=True)
    try:
        # Absolute: 'vgg19 evaluate' may run from another directory.
        absolute = job.config.model_copy(update={"data": job.config.data.absolute()})
        write_config(absolute, run.config)
        write_json(run.data, job.data.describe())
        provenance = record_provenance(job.config, job.data.fingerprint())
        write_json(run.provenance, provenance.model_dump(mode="json"))
        _keep_held_out_images(job, run)
        yield run
    except BaseException:
        if not run.best.exists():
            shutil.rmtree(run.path)
            if existed:
                run.path.mkdir()
        raise


def _keep_held_out_images(job: Job, run: Run) -> None:
    """Keep some held-out images, spread over the classes, so that export needs only the run."""
    dataset = job.dataset(job.data.held_out)
    count = min(_KEPT_HELD_OUT_IMAGES, len(dataset))
    indices = [math.floor(i * len(dataset) / count) for i in range(count)]
    images, targets = zip(*(dataset[i] for i in indices), strict=True)
    write_held_out(run.held_out, torch.stack(images).numpy(), torch.stack(targets).numpy())
