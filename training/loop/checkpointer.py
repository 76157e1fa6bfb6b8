"""What a run saves, and when: often enough to lose little, and to cost little.

With `fc`, one save of everything is 2.6 GB; an epoch from cached features takes seconds. So the
best weights wait in memory, and are written with the rest when the last save is old enough, when
the run is stopped, and at its end.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict

import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor
from torchvision.models import VGG

from models.files import link_or_copy
from training.loop.checkpoint import load_checkpoint, save_checkpoint
from training.loop.context import TrainContext
from training.loop.history import Epoch, best_epoch
from training.loop.run import Run, write_json
from training.loop.state import save_state
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
            write_json(self._run.metrics, {"history": [asdict(row) for row in history]})
        if self._due():
            self.save(state, history)

    def save(self, state: TrainState, history: Sequence[Epoch]) -> None:
        """Write everything that is needed to go on from `state`.

        Raises:
            TrainingError: the weights contain NaN or Inf; what is on the disk stays.
            CheckpointError: see `training.loop.checkpoint.staged_weights`.
        """
        self._trainer.check_weights(state)
        if self._context.accelerator.is_main_process and history:
            self.write_best()
            if state.batch == 0:  # between epochs
                self._write_last(history)
        save_state(self._run.state, self._trainer, state, [asdict(row) for row in history])
        self._saved_at = time.monotonic()

    def write_best(self) -> None:
        """Write the best weights so far, if they are not on the disk; in the main process."""
        if not self._best_is_written:
            save_checkpoint(self._best, self._context.spec, self._run.best)
            self._best_is_written = True

    def finish(self, history: Sequence[Epoch]) -> VGG:
        """Write both checkpoints; in the main process. The resume state stays.

        Returns:
            the best model. The trainer's network takes its weights: training is over.
        """
        self.write_best()
        self._write_last(history)
        model = self._trainer.inference_model
        model.load_state_dict(self._best or load_checkpoint(self._run.best)[0].state_dict())
        return model

    def _remember_best(self) -> None:
        for name, tensor in self._trainer.inference_model.state_dict().items():
            if name not in self._best:
                self._best[name] = torch.empty(tensor.shape, dtype=tensor.dtype)
            self._best[name].copy_(tensor)
        self._best_is_written = False

    def _write_last(self, history: Sequence[Epoch]) -> None:
        if history[-1] is best_epoch(history):
            link_or_copy(self._run.best, self._run.last)
        else:
            state = self._trainer.inference_model.state_dict()
            save_checkpoint(state, self._context.spec, self._run.last)

    def _due(self) -> bool:
        """Whether the last save is old enough, by the main process's clock."""
        due = [time.monotonic() - self._saved_at >= self._context.config.save_every_seconds]
        if self._context.accelerator.num_processes > 1:
            broadcast_object_list(due)
        return due[0]
