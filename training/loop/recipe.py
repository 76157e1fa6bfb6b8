"""`fine_tune(config)`: a run, from labelled images to checkpoints, metrics and a report."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from models.bundle.metrics import weaknesses
from training.data.batch import Batch, BatchSource
from training.data.dataset import LostImageError
from training.evaluate.calibration import fit_temperature
from training.evaluate.drift_reference import drift_reference
from training.evaluate.metrics import classification_metrics, quick_metrics
from training.evaluate.ood import check_ood_data, find_acceptance, summary
from training.features.batches import CachedFeatures
from training.loop.accelerator import make_accelerator
from training.loop.advice import advice
from training.loop.checkpointer import Checkpointer, restore
from training.loop.config import TrainConfig, read_resumed
from training.loop.context import TrainContext, load_data, resolved
from training.loop.history import Epoch, best_epoch, should_stop
from training.loop.layer_table import LayerRow, layer_table
from training.loop.preflight import check_config, check_decided
from training.loop.processes import Processes, check_reachable
from training.loop.run import Run, RunError, check_free, write_json
from training.loop.run_directory import check_same_images, run_directory
from training.loop.setup import set_up, trainable_in, unfreeze
from training.loop.signals import (
    StopNow,
    Terminated,
    end_on_signals,
    resume_command,
    stop_on_signals,
)
from training.loop.state import is_finished, read_state
from training.loop.trainer import Trainer, TrainingError, TrainState, check_validation
from training.probe.head_start import start_head
from training.reporter import Reporter, SilentReporter
from training.reports.training import write_report


class Finish(Protocol):
    """What is done with the best model of a run when its epochs are done; in the main process."""

    def __call__(
        self,
        model: nn.Module,
        source: BatchSource,
        context: TrainContext,
        run: Run,
        table: list[LayerRow],
        history: list[Epoch],
    ) -> None: ...


def judge_and_report(
    model: nn.Module,
    source: BatchSource,
    context: TrainContext,
    run: Run,
    table: list[LayerRow],
    history: list[Epoch],
) -> None:
    """Calibrate the best model, judge it, and write metrics and report: the run is finished."""
    val_logits, val_targets = context.predict(source, model, "val", shared=False)
    temperature = fit_temperature(val_logits, val_targets)
    logits, targets = val_logits, val_targets
    if context.data.held_out != "val":
        logits, targets = context.predict(source, model, context.data.held_out, shared=False)
    before = classification_metrics(logits, targets, context.data.labels)
    held_out = classification_metrics(logits / temperature, targets, context.data.labels)
    statistics, acceptance = find_acceptance(model, source, context, temperature, history[-1].epoch)
    statistics.write(run.feature_statistics)
    reference = drift_reference(model, source, context, temperature, statistics, acceptance)
    reference.write(run.reference)
    best = best_epoch(history)
    metrics: dict[str, Any] = {
        "best_epoch": best.epoch,
        "held_out": {"split": context.data.held_out, **held_out},
        "calibration": {
            "temperature": temperature,
            "fitted_on": len(val_targets),
            "expected_calibration_error_before": before["expected_calibration_error"],
            "expected_calibration_error": held_out["expected_calibration_error"],
        },
        "acceptance": acceptance,
        **{
            name: run.read_json(path)
            for name, path in {"head": run.head, "auto": run.auto}.items()
            if path.is_file()
        },
        "history": [asdict(epoch) for epoch in history],
    }
    write_json(run.metrics, metrics)
    write_report(
        model, run, context, table, metrics, (logits / temperature).softmax(dim=1), targets
    )
    run.state.unlink(missing_ok=True)
    context.reporter.say(
        f"accuracy on {context.data.held_out} ({held_out['images']} images, epoch {best.epoch}): "
        f"{held_out['accuracy']:.1%}; calibration error "
        f"{held_out['expected_calibration_error']:.3f} (temperature {temperature:.2f})"
    )
    context.reporter.say(summary(acceptance))
    for weakness in weaknesses(held_out):
        context.reporter.warn(weakness)
    context.reporter.say(
        f"run written to {run.path}, look at {run.report}; next: vgg19 export {run.path}"
    )


def fine_tune(
    config: TrainConfig,
    reporter: Reporter,
    *,
    resume: bool = False,
    finish: Finish = judge_and_report,
) -> Run:
    """Train as `config` says and fill the run directory `config.output`.

    The epoch with the best validation score is saved as `best`, calibrated on the validation split,
    and judged on the held-out images: the test split, or validation where there is none.

    Args:
        resume: go on with the run in `config.output`, which `config` was read from.
        finish: another one leaves a run whose epochs are done, which `resume_run` finishes.

    Raises:
        UserError: the configuration can't be carried out. Nothing is left behind unless an
            epoch was finished, or there is a state to go on from.
        Terminated: SIGINT, SIGTERM or SIGHUP came; the run can be resumed.
    """
    if not resume:
        check_config(config)
    check_decided(config)
    config = resolved(config)
    if not resume:
        check_free(config.output)
        check_ood_data(config.ood_data)
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
    processes = Processes(accelerator)
    data = processes.from_main(lambda: load_data(config, reporter))
    check_reachable(data)
    context = TrainContext(config, data, accelerator, reporter)
    run = Run(config.output)
    if resume:
        check_same_images(context, run)
    saved = read_state(run.state) if resume and run.state.exists() else None
    trainer, table = set_up(context, initial_weights=saved is None)
    reporter.say(_summary(context))
    reporter.say(layer_table(table, folded=not reporter.verbose))
    for sentence in advice(config, context.data.counts()["train"], table):
        reporter.warn(sentence)
    state, history = TrainState(), list[Epoch]()
    if saved is not None:
        state, history = restore(saved, trainer, context)
    source = CachedFeatures(context, trainer.model)
    first = min(state.epoch, config.epochs)
    epochs = range(first, config.epochs + 1)
    source.plan([trainable_in(context, epoch) for epoch in epochs], first_epoch=first)
    with (
        stop_on_signals(context.stop, tell=accelerator.is_main_process),
        run_directory(context, resume=resume) as run,
    ):
        if tracker:
            settings = {key: str(value) for key, value in config.model_dump().items()}
            accelerator.init_trackers("vgg19", config=settings)
        checkpointer = Checkpointer(trainer, context, run)
        if resume and accelerator.is_main_process:
            checkpointer.recover(history)
        done = saved is not None and is_finished(saved)
        if not done:
            try:
                _train(trainer, source, context, processes, checkpointer, state, history)
            except Exception:
                checkpointer.leave_best()
                raise
        with end_on_signals(run.path):
            if accelerator.is_main_process:
                model = checkpointer.load_best() if done else checkpointer.finish(history)
            if context.stop.requested:  # in the last epoch, where no step came after it
                raise Terminated(run.path, context.stop.number)
            if accelerator.is_main_process:
                finish(model, source, context, run, table, history)
            processes.wait()
        accelerator.end_training()  # trackers, and the group of processes
    return run


def resume_run(
    path: Path,
    reporter: Reporter,
    changes: Mapping[str, Any] | None = None,
    *,
    finish: Finish = judge_and_report,
) -> Run:
    """Go on with the run in `path`, with its own configuration.

    Args:
        changes: of fields in `training.loop.config.RESUMABLE`.
        finish: see `fine_tune`.

    Raises:
        RunError: it is not a run, it is finished, or its images have changed.
        ConfigError: a change isn't allowed.
    """
    run = Run(path)
    run.check_begun()
    config = read_resumed(run.config, path, changes or {})
    if run.report.exists():
        raise RunError(f"{path} is finished; there is nothing to resume")
    return fine_tune(config, reporter, resume=True, finish=finish)


def _train(
    trainer: Trainer,
    source: CachedFeatures,
    context: TrainContext,
    processes: Processes,
    checkpointer: Checkpointer,
    state: TrainState,
    history: list[Epoch],
) -> None:
    """Train from `state` to the end, and add each epoch to `history`."""
    while state.epoch <= context.config.epochs:
        if should_stop(history, context.config.early_stopping):
            context.reporter.say(
                f"no better epoch in {context.config.early_stopping}: stopping early"
            )
            break
        unfreeze(trainer, context, state.epoch)
        try:
            if state.step == 0 and not history:
                _start(trainer, source, context, processes, checkpointer, history)
            _train_epoch(trainer, source, context, state, history, checkpointer)
            history.append(_judge_epoch(trainer, source, context, state, history))
        except LostImageError as error:
            raise _saved(error, context, state, history, checkpointer) from None
        except StopNow:
            checkpointer.save(state, history)
            raise Terminated(context.config.output, context.stop.number) from None
        state = TrainState(epoch=state.epoch + 1, step=state.step)
        checkpointer.finish_epoch(state, history)


def _start(
    trainer: Trainer,
    source: CachedFeatures,
    context: TrainContext,
    processes: Processes,
    checkpointer: Checkpointer,
    history: list[Epoch],
) -> None:
    """Epoch 0, where the head is worth something before the first step: it may stay the best."""
    started = start_head(trainer, source, context, processes)
    if started is None:
        return
    if context.accelerator.is_main_process:
        write_json(Run(context.config.output).head, started.figures())
    fitted = TrainState(epoch=0, stats=started.stats)
    history.append(_judge_epoch(trainer, source, context, fitted, history))
    checkpointer.finish_epoch(TrainState(), history)


def _saved(
    error: LostImageError,
    context: TrainContext,
    state: TrainState,
    history: list[Epoch],
    checkpointer: Checkpointer,
) -> TrainingError:
    """Images are read between steps: what there is by then can be gone on from.

    Alone; where processes train together, the others don't know of it.
    """
    if context.accelerator.num_processes == 1:
        checkpointer.save(state, history)
    return TrainingError(
        f"{error.reason}; put it back, then continue with '{resume_command(context.config.output)}'"
    )


def _judge_epoch(
    trainer: Trainer,
    source: BatchSource,
    context: TrainContext,
    state: TrainState,
    history: list[Epoch],
) -> Epoch:
    """Evaluate on the validation images, and tell."""
    scores = quick_metrics(*context.predict(source, trainer.inference_model, "val"))
    check_validation(scores["loss"], state.epoch)
    epoch = Epoch(
        state.epoch,
        _head_rate(trainer) if state.step else 0.0,
        state.stats.loss,
        state.stats.accuracy,
        scores["loss"],
        scores["accuracy"],
        state.stats.images_per_second,
        len(trainer.optimizer.param_groups),
    )
    logged = {key: value for key, value in asdict(epoch).items() if key != "epoch"}
    context.accelerator.log(logged, step=epoch.epoch)
    is_best = best_epoch([*history, epoch]) is epoch
    context.reporter.say(_epoch_line(epoch, context.config.epochs, is_best))
    return epoch


def _head_rate(trainer: Trainer) -> float:
    rates = {group["name"]: group["lr"] for group in trainer.optimizer.param_groups}
    return float(rates[trainer.model.architecture.head])


def _train_epoch(
    trainer: Trainer,
    source: BatchSource,
    context: TrainContext,
    state: TrainState,
    history: list[Epoch],
    checkpointer: Checkpointer,
) -> None:
    name = f"epoch {state.epoch}/{context.config.epochs}"
    batches, unit = _with_unit(source.batches("train", state.epoch, start=state.batch))
    every = context.config.save_every_steps
    count = len(context.data.split("train"))
    with context.reporter.progress(name, count, unit=unit) as advance:
        advance(state.stats.images, "")
        for batch in batches:
            size = trainer.step(batch, state, stop_requested=context.stop.requested)
            advance(size, f"loss {state.stats.loss:.3f} acc {state.stats.accuracy:.1%}")
            if trainer.stop_agreed:
                checkpointer.save(state, history)
                # Another process may have been the one that was told.
                raise Terminated(context.config.output, context.stop.number or signal.SIGTERM)
            if every and state.step % every == 0:
                checkpointer.save(state, history)


def _with_unit(batches: Iterable[Batch]) -> tuple[Iterable[Batch], str]:
    """The batches, and what the bar counts them in: see `Reporter.progress`."""
    rest = iter(batches)
    first = next(rest, None)
    if first is None:
        return (), ""
    return chain((first,), rest), "images" if first.start == 0 else ""


def _summary(context: TrainContext) -> str:
    config, data = context.config, context.data
    sizes = {split: len(data.split(split)) for split in ("train", "val", "test")}
    processes = context.accelerator.num_processes
    return (
        f"{context.architecture.title}, weights {config.weights}, strategy {config.strategy}, on "
        f"{context.accelerator.device.type}{f' x {processes}' if processes > 1 else ''}; "
        f"{len(data.labels)} classes; {sizes['train']} images to train, {sizes['val']} to "
        f"validate, {sizes['test']} to test, at {config.image_size} px, resize {config.resize}"
    )


def _epoch_line(epoch: Epoch, epochs: int, is_best: bool) -> str:
    return (
        f"epoch {epoch.epoch:>{len(str(epochs))}}/{epochs}  train loss {epoch.train_loss:.3f} acc "
        f"{epoch.train_accuracy:6.1%}  val loss {epoch.val_loss:.3f} acc {epoch.val_accuracy:6.1%}"
        f"{'  best' if is_best else ''}"
    )
