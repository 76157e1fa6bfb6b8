"""`fine_tune(config)`: a run, from labelled images to checkpoints, metrics and a report."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.models import VGG

from models.freezing import (
    HEAD_LAYER,
    FineTuner,
    layers,
    parameter_groups,
    trainable_layers,
)
from models.vgg19 import build, initialise_from_data
from training.augment import BatchMixing
from training.calibration import fit_temperature
from training.checkpoint import load_checkpoint, save_checkpoint
from training.config import TrainConfig, read_config
from training.console import Reporter, SilentReporter
from training.engine import (
    Objective,
    Position,
    Trainer,
    TrainingError,
    make_accelerator,
    make_optimizer,
    optimizer_group,
    schedule_factor,
)
from training.job import Job, load_data
from training.layer_table import LayerRow, layer_table
from training.metrics import classification_metrics
from training.report import write_report
from training.run import Run, RunError, check_free, write_json
from training.run_directory import run_directory
from training.sampling import balanced_class_weights, derive_seed
from training.signals import StopRequest, Terminated, stop_on_sigterm
from training.state import read_state, restore_state, save_state

# Enough for the variance estimate of `initialise_from_data`.
_INITIALISATION_IMAGES = 64


@dataclass(frozen=True)
class Epoch:
    """One row of `history` in metrics.json. Losses in nats, accuracies 0..1."""

    epoch: int
    learning_rate: float
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    images_per_second: float
    layers: int

    @property
    def score(self) -> tuple[float, float]:
        """The better epoch has the higher one: accuracy first, then loss."""
        return (self.val_accuracy, -self.val_loss)


def fine_tune(config: TrainConfig, reporter: Reporter, *, resume: bool = False) -> Run:
    """Train as `config` says and fill the run directory `config.output`.

    The epoch with the best validation score is kept as `best`, calibrated on the validation split,
    and judged on the held-out images: the test split, or validation where there is none.

    Args:
        resume: go on with the run in `config.output`, which `config` was read from.

    Raises:
        UserError: the configuration can't be carried out. Nothing is left behind unless an
            epoch was finished.
        Terminated: SIGTERM came; the run can be resumed.
    """
    config = config.resolved()
    if not resume:
        check_free(config.output)
    tracker = None if config.tracker == "none" else config.tracker
    if tracker and find_spec(tracker) is None:
        # Accelerate would warn and train on without it.
        raise TrainingError(
            f"tracker is '{tracker}', which is not installed; run 'pip install {tracker}' or "
            "choose another one"
        )
    accelerator = make_accelerator(
        config.device, config.mixed_precision, log_with=tracker, project_dir=str(config.output)
    )
    if not accelerator.is_main_process:
        reporter = SilentReporter()
    job = Job(config, load_data(config, reporter), accelerator, reporter)
    trainer, table = set_up(job)
    reporter.say(_summary(job))
    reporter.say(layer_table(table))
    with run_directory(job, resume=resume) as run:
        if tracker:
            settings = {key: str(value) for key, value in config.model_dump().items()}
            accelerator.init_trackers("vgg19", config=settings)
        history = _train(trainer, job, run)
        if accelerator.is_main_process:
            _finish(job, run, table, history)
        accelerator.wait_for_everyone()
        if tracker:
            accelerator.end_training()
    reporter.say(f"run written to {run.path}, look at {run.report}; next: vgg19 export {run.path}")
    return run


def resume_run(path: Path, reporter: Reporter) -> Run:
    """Go on with the run in `path`, with its own configuration.

    Raises:
        RunError: it is no run, it has come to its end, or its images have changed.
    """
    run = Run(path)
    if not run.config.is_file():
        raise RunError(f"{path} is no run: it has no {run.config.name}")
    if run.report.exists():
        raise RunError(f"{path} has come to its end; there is nothing to resume")
    config = read_config(run.config).model_copy(update={"output": path})
    return fine_tune(config, reporter, resume=True)


def set_up(job: Job) -> tuple[Trainer, list[LayerRow]]:
    """The model with its optimizer, ready for the first epoch, and which layer trains how."""
    config, data = job.config, job.data
    torch.manual_seed(config.seed)
    model = build(config.weights, len(data.labels), dropout=config.dropout)
    model.to(job.accelerator.device)
    if job.accelerator.device.type == "cuda":
        model.to(memory_format=torch.channels_last)
    if config.weights == "none":
        _initialise(model, job)
    # Each process draws its own dropout masks; the weights above are the same in all.
    torch.manual_seed(derive_seed(config.seed, "dropout", job.accelerator.process_index))
    tuner = FineTuner(model)
    tuner.set_trainable(_trainable(job, epoch=1))
    train = job.dataset("train")
    weights = (
        balanced_class_weights(train.targets, len(data.labels)).to(job.accelerator.device)
        if config.class_weights == "balanced"
        else None
    )
    steps = config.epochs * len(job.epoch_batches("train", 1))
    trainer = Trainer(
        job.accelerator,
        tuner,
        job.normalize(),
        make_optimizer(
            parameter_groups(model, _trainable(job, epoch=1), job.learning_rates()),
            config.optimizer,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            device=job.accelerator.device,
        ),
        objective=Objective(config.label_smoothing, weights),
        factor=partial(
            schedule_factor,
            total_steps=steps,
            warmup_steps=round(steps * config.warmup_fraction),
            kind=config.schedule,
        ),
        mix=BatchMixing(len(data.labels), mixup=config.mixup, cutmix=config.cutmix),
        clip_norm=config.clip_norm,
        ema_decay=config.ema_decay,
        micro_batch_size=config.micro_batch_size,
        auto_batch=config.auto_batch,
        compile_model=config.compile,
        names=job.file_name,
    )
    return trainer, _layer_rows(model, job)


def _train(trainer: Trainer, job: Job, run: Run) -> list[Epoch]:
    position, history = Position(), list[Epoch]()
    if run.state.exists():
        position, history = _go_on(trainer, job, run)
    with stop_on_sigterm() as stop:
        while position.epoch <= job.config.epochs:
            if _should_stop(history, job.config.early_stopping):
                job.reporter.say(f"no better epoch in {job.config.early_stopping}: stopping early")
                break
            thaw(trainer, job, position.epoch)
            _train_epoch(trainer, job, run, position, history, stop)
            history.append(_finish_epoch(trainer, job, run, position, history))
            position = Position(epoch=position.epoch + 1, step=position.step)
            save_state(run.state, trainer, position, [asdict(row) for row in history])
    return history


def _finish_epoch(
    trainer: Trainer, job: Job, run: Run, position: Position, history: list[Epoch]
) -> Epoch:
    """Evaluate, write the checkpoints, and tell."""
    scores = _evaluate(trainer.inference_model, job)
    epoch = Epoch(
        position.epoch,
        _head_rate(trainer),
        position.stats.loss,
        position.stats.accuracy,
        scores["loss"],
        scores["accuracy"],
        position.stats.images_per_second,
        len(trainer.optimizer.param_groups),
    )
    is_best = all(epoch.score > earlier.score for earlier in history)
    if job.accelerator.is_main_process:
        _write_epoch(trainer, job, run, [*history, epoch], is_best)
    logged = {key: value for key, value in asdict(epoch).items() if key != "epoch"}
    job.accelerator.log(logged, step=epoch.epoch)
    job.reporter.say(_epoch_line(epoch, job.config.epochs, is_best))
    return epoch


def _head_rate(trainer: Trainer) -> float:
    rates = {group["name"]: group["lr"] for group in trainer.optimizer.param_groups}
    return float(rates[HEAD_LAYER])


def thaw(trainer: Trainer, job: Job, epoch: int) -> None:
    """Let the layers train that are to train in this epoch, and tell which are new."""
    wanted = _trainable(job, epoch)
    present = {group["name"] for group in trainer.optimizer.param_groups}
    rates = job.learning_rates()
    new = parameter_groups(trainer.model.model, wanted - present, rates)
    if not new:
        return
    trainer.model.set_trainable(wanted)
    for group in new:
        trainer.optimizer.add_param_group(optimizer_group(group))
    trainer.prepare()
    job.reporter.say(f"epoch {epoch}: thawed {', '.join(group.name for group in new)}")


def _go_on(trainer: Trainer, job: Job, run: Run) -> tuple[Position, list[Epoch]]:
    state = read_state(run.state)
    for epoch in range(1, min(state["position"]["epoch"], job.config.epochs) + 1):
        started = state["position"]["batch"] > 0 or epoch < state["position"]["epoch"]
        if started:  # a layer enters the optimizer when its epoch begins
            thaw(trainer, job, epoch)
    position, rows = restore_state(state, trainer)
    job.reporter.say(f"resuming in epoch {position.epoch}, batch {position.batch + 1}")
    return position, [Epoch(**row) for row in rows]


def _train_epoch(
    trainer: Trainer,
    job: Job,
    run: Run,
    position: Position,
    history: list[Epoch],
    stop: StopRequest,
) -> None:
    name = f"epoch {position.epoch}/{job.config.epochs}"
    batches = job.epoch_batches("train", position.epoch, start=position.batch)
    every = job.config.save_every_steps
    rows = [asdict(row) for row in history]
    with job.reporter.progress(name, len(job.data.split("train"))) as advance:
        advance(position.stats.images, "")
        for batch in job.load("train", batches):
            size = trainer.step(batch, position, stop_requested=stop.requested)
            advance(size, f"loss {position.stats.loss:.3f} accuracy {position.stats.accuracy:.1%}")
            if trainer.stop_agreed:
                save_state(run.state, trainer, position, rows)
                raise Terminated(run.path)
            if every and position.step % every == 0:
                save_state(run.state, trainer, position, rows)


def _write_epoch(trainer: Trainer, job: Job, run: Run, history: list[Epoch], is_best: bool) -> None:
    model = trainer.inference_model
    assert isinstance(model, VGG)
    save_checkpoint(model, job.spec, run.last)
    if is_best:
        save_checkpoint(model, job.spec, run.best)
    write_json(run.metrics, {"history": [asdict(row) for row in history]})


def _finish(job: Job, run: Run, table: list[LayerRow], history: list[Epoch]) -> None:
    """Calibrate the best checkpoint, judge it, and write metrics and report."""
    best = max(history, key=lambda epoch: epoch.score)
    model = load_checkpoint(run.best)[0].to(job.accelerator.device)
    val_logits, val_targets = job.predict(model, "val", shared=False)
    temperature = fit_temperature(val_logits, val_targets)
    logits, targets = val_logits, val_targets
    if job.data.held_out != "val":
        logits, targets = job.predict(model, job.data.held_out, shared=False)
    before = classification_metrics(logits, targets, job.data.labels)
    held_out = classification_metrics(logits / temperature, targets, job.data.labels)
    metrics: dict[str, Any] = {
        "best_epoch": best.epoch,
        "held_out": {"split": job.data.held_out, **held_out},
        "calibration": {
            "temperature": temperature,
            "fitted_on": len(val_targets),
            "expected_calibration_error_before": before["expected_calibration_error"],
            "expected_calibration_error": held_out["expected_calibration_error"],
        },
        "history": [asdict(epoch) for epoch in history],
    }
    write_json(run.metrics, metrics)
    write_report(run, job, table, metrics, (logits / temperature).softmax(dim=1), targets)
    run.state.unlink(missing_ok=True)
    job.reporter.say(
        f"accuracy on {job.data.held_out} ({held_out['images']} images, epoch {best.epoch}): "
        f"{held_out['accuracy']:.1%}; calibration error "
        f"{held_out['expected_calibration_error']:.3f} (temperature {temperature:.2f})"
    )


def _evaluate(model: torch.nn.Module, job: Job) -> dict[str, Any]:
    logits, targets = job.predict(model, "val")
    return classification_metrics(logits, targets, job.data.labels)


def _trainable(job: Job, epoch: int) -> set[str]:
    config = job.config
    return trainable_layers(
        config.strategy,
        job.layer_names,
        epoch=epoch,
        thaw_epochs=config.thaw_epochs or (),
        unfreeze=config.unfreeze,
    )


def _layer_rows(model: VGG, job: Job) -> list[LayerRow]:
    """Every layer with its size, its rate, and the epoch from which it trains (None: never)."""
    rates = job.learning_rates()
    first: dict[str, int] = {}
    for epoch in range(job.config.epochs, 0, -1):
        first |= dict.fromkeys(_trainable(job, epoch), epoch)
    return [
        LayerRow(
            name,
            sum(parameter.numel() for parameter in module.parameters()),
            first.get(name),
            rates[name] if name in first else None,
        )
        for name, module in layers(model).items()
    ]


def _initialise(model: VGG, job: Job) -> None:
    """`--weights none`: scale the convolutions on a sample of the training images."""
    dataset = job.dataset("train")
    step = max(1, len(dataset) // _INITIALISATION_IMAGES)
    indices = range(0, len(dataset), step)[:_INITIALISATION_IMAGES]
    images: Tensor = torch.stack([dataset.pixels(index) for index in indices])
    initialise_from_data(model, job.normalize()(images.to(job.accelerator.device)))


def _should_stop(history: list[Epoch], patience: int | None) -> bool:
    if patience is None or not history:
        return False
    best = max(history, key=lambda epoch: epoch.score)
    return history[-1].epoch - best.epoch >= patience


def _summary(job: Job) -> str:
    config, data = job.config, job.data
    sizes = {split: len(data.split(split)) for split in ("train", "val", "test")}
    processes = job.accelerator.num_processes
    return (
        f"VGG-19, weights {config.weights}, strategy {config.strategy}, on "
        f"{job.accelerator.device.type}{f' x {processes}' if processes > 1 else ''}; "
        f"{len(data.labels)} classes; {sizes['train']} images to train, {sizes['val']} to "
        f"validate, {sizes['test']} to test, at {config.image_size} px"
    )


def _epoch_line(epoch: Epoch, epochs: int, is_best: bool) -> str:
    return (
        f"epoch {epoch.epoch}/{epochs}  train loss {epoch.train_loss:.3f} accuracy "
        f"{epoch.train_accuracy:6.1%}  val loss {epoch.val_loss:.3f} accuracy "
        f"{epoch.val_accuracy:6.1%}  {epoch.images_per_second:.1f} images/s"
        f"{'  best so far' if is_best else ''}"
    )
