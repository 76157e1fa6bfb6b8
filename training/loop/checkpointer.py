"""What a run saves, and when: often enough to lose little, and to cost little.

With `fc`, one save of everything is 2.6 GB; an epoch from cached features takes seconds. So the
best weights wait in memory, and are written with the rest when the last save is old enough, when
the run is stopped, and at its end.

The best weights and the state that knows which epoch was the best are one unit. The state's
replacement is the one instant at which both change:

1. the best weights of epoch N are written beside `best`, as best-N
2. the state is replaced by one whose history has N as its best epoch
3. best-N takes the place of `best`

A run killed before 2 has a best-N that its state doesn't know, which is removed; one killed before
3 has one that its state knows, which takes its place (`Checkpointer.recover`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from models.files import link_or_copy
from training.loop.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from training.loop.context import TrainContext
from training.loop.history import Epoch, best_epoch
from training.loop.run import Run, write_json
from training.loop.setup import unfreeze
from training.loop.state import (
    group_names,
    is_finished,
    restore_state,
    save_finished,
    save_state,
)
from training.loop.trainer import Trainer, TrainState


class Checkpointer:
    """Saves the checkpoints `best` and `last`, and the state to resume from.

    All processes call the same methods; the main process writes.
    """

    def __init__(self, trainer: Trainer, context: TrainContext, run: Run) -> None:
        self._trainer = trainer
        self._context = context
        self._run = run
        self._best: dict[str, Tensor] = {}
        self._best_is_written = True
        self._saved_at = time.monotonic()

    def finish_epoch(self, state: TrainState, history: Sequence[Epoch]) -> None:
        """Add the epoch that is the last of `history`; `state` is where the next begins."""
        if self._context.accelerator.is_main_process:
            if history[-1] is best_epoch(history):
                self._remember_best()
            self._write_history(history)
        if self._due():
            self.save(state, history)

    def save(self, state: TrainState, history: Sequence[Epoch]) -> None:
        """Write everything that is needed to go on from `state`.

        Raises:
            TrainingError: the weights contain NaN or Inf; what is on the disk stays.
            CheckpointError: see `training.loop.checkpoint.staged_weights`.
        """
        self._trainer.check_weights(state)
        is_main = self._context.accelerator.is_main_process and bool(history)
        if is_main:
            self._stage_best(history)
            if state.batch == 0:  # between epochs
                self._write_last(history)
        save_state(self._run.state, self._trainer, state, [asdict(row) for row in history])
        if is_main:
            self._publish_best(history)
        self._saved_at = time.monotonic()

    def finish(self, history: Sequence[Epoch]) -> nn.Module:
        """Write both checkpoints, and that the epochs are done; in the main process.

        Returns:
            the best model. The trainer's network takes its weights: training is over.
        """
        # A gigabyte of moments under `fc`, which the file's pages can have: fresh memory is slow.
        self._trainer.optimizer.state.clear()
        self._stage_best(history)
        self._write_last(history)
        save_finished(self._run.state, self._trainer, [asdict(row) for row in history])
        self._publish_best(history)
        return self.load_best()

    def load_best(self) -> nn.Module:
        """The trainer's network, with the best weights."""
        model = self._trainer.inference_model
        model.load_state_dict(self._best or load_checkpoint(self._run.best)[0].state_dict())
        return model

    def leave_best(self) -> None:
        """After an error: where no saved state knows of a best epoch, leave the best weights so
        far for 'vgg19 evaluate'. Others belong to the state, and stay what they are."""
        if self._best_is_written or self._run.best.exists():
            return
        with suppress(CheckpointError, OSError):  # the first error says more
            staged = self._run.staged_bests()
            if staged:
                staged[0].replace(self._run.best)
            else:
                save_checkpoint(self._best, self._context.spec, self._run.best)

    def recover(self, history: Sequence[Epoch]) -> None:
        """Make what is on the disk that of the state, whose epochs `history` are, at whatever
        instant the run was killed; in the main process.

        Raises:
            CheckpointError: the best checkpoint is missing.
        """
        run = self._run
        for file in (run.state, run.best, run.last, run.metrics, run.report):
            for leftover in file.parent.glob(f".{file.stem}*-*"):  # of a write that was killed
                leftover.unlink()
        if history:
            saved_best(run, history).replace(run.best)
            self._write_history(history)
        else:
            for unknown in (run.best, run.last, run.metrics):
                unknown.unlink(missing_ok=True)
        for unknown in run.staged_bests():
            unknown.unlink()

    def _remember_best(self) -> None:
        for name, tensor in self._trainer.inference_model.state_dict().items():
            if name not in self._best:
                self._best[name] = torch.empty(tensor.shape, dtype=tensor.dtype)
            self._best[name].copy_(tensor)
        self._best_is_written = False

    def _stage_best(self, history: Sequence[Epoch]) -> None:
        """Step 1."""
        staged = self._run.staged_best(best_epoch(history).epoch)
        if not self._best_is_written and not staged.exists():
            save_checkpoint(self._best, self._context.spec, staged)

    def _publish_best(self, history: Sequence[Epoch]) -> None:
        """Step 3."""
        if not self._best_is_written:
            self._run.staged_best(best_epoch(history).epoch).replace(self._run.best)
            self._best_is_written = True

    def _write_last(self, history: Sequence[Epoch]) -> None:
        if history[-1] is best_epoch(history):
            link_or_copy(saved_best(self._run, history), self._run.last)
        else:
            state = self._trainer.inference_model.state_dict()
            save_checkpoint(state, self._context.spec, self._run.last)

    def _write_history(self, history: Sequence[Epoch]) -> None:
        write_json(self._run.metrics, {"history": [asdict(row) for row in history]})

    def _due(self) -> bool:
        """Whether the last save is old enough, by the main process's clock."""
        due = [time.monotonic() - self._saved_at >= self._context.config.save_every_seconds]
        if self._context.accelerator.num_processes > 1:
            broadcast_object_list(due)
        return due[0]


def saved_best(run: Run, history: Sequence[Epoch]) -> Path:
    """The best checkpoint of a state with these epochs, wherever it is by now.

    Raises:
        CheckpointError: it is missing.
    """
    staged = run.staged_best(best_epoch(history).epoch)
    for path in (staged, run.best):
        if path.exists():
            return path
    raise CheckpointError(
        f"the checkpoint {run.best} is missing, and the state of the run counts on it; put it back "
        "or begin a new run"
    )


def restore(
    saved: dict[str, Any], trainer: Trainer, context: TrainContext
) -> tuple[TrainState, list[Epoch]]:
    """Put a saved state into a trainer that is set up for the first epoch.

    Returns:
        the position to go on from, and the epochs before it.

    Raises:
        StateError, CheckpointError: it can't go on from there.
    """
    epoch, wanted = 1, group_names(saved)
    while wanted - {group["name"] for group in trainer.optimizer.param_groups}:
        unfreeze(trainer, context, epoch)  # in the order of the epochs, as the optimizer's state is
        epoch += 1
    history = [Epoch(**row) for row in saved["history"]]
    if is_finished(saved):
        best, _ = load_checkpoint(saved_best(Run(context.config.output), history))
        trainer.model.model.load_state_dict(best.state_dict())
        context.reporter.say("all epochs are done; finishing the run")
        return TrainState(epoch=saved["position"]["epoch"]), history
    state = restore_state(saved, trainer)
    context.reporter.say(f"resuming in epoch {state.epoch}, batch {state.batch + 1}")
    return state, history
