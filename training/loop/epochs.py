"""The epochs of a run: train, evaluate, save, and stop when there is nothing to gain."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from dataclasses import asdict
from itertools import chain

from training.data.batch import Batch, BatchSource
from training.data.dataset import LostImageError
from training.evaluate.metrics import quick_metrics
from training.features.batches import CachedFeatures
from training.loop.checkpointer import Checkpointer
from training.loop.context import TrainContext
from training.loop.history import Epoch, best_epoch, should_stop
from training.loop.processes import Processes
from training.loop.run import Run, write_json
from training.loop.setup import unfreeze
from training.loop.signals import StopNow, Terminated, resume_command
from training.loop.trainer import Trainer, TrainingError, TrainState, check_validation
from training.probe.head_start import start_head


def train_epochs(
    trainer: Trainer,
    source: CachedFeatures,
    context: TrainContext,
    processes: Processes,
    checkpointer: Checkpointer,
    state: TrainState,
    history: list[Epoch],
) -> None:
    """Train from `state` to the end, and add each epoch to `history`.

    Raises:
        TrainingError: an image is gone, or the loss has diverged.
        Terminated: SIGINT, SIGTERM or SIGHUP came; the state is saved.
    """
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


def _epoch_line(epoch: Epoch, epochs: int, is_best: bool) -> str:
    return (
        f"epoch {epoch.epoch:>{len(str(epochs))}}/{epochs}  train loss {epoch.train_loss:.3f} acc "
        f"{epoch.train_accuracy:6.1%}  val loss {epoch.val_loss:.3f} acc {epoch.val_accuracy:6.1%}"
        f"{'  best' if is_best else ''}"
    )


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
