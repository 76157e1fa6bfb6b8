"""What a run needs to go on exactly where it stood: written in one step, never unpickled."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object

from models.errors import UserError
from training.loop.checkpoint import staged_weights
from training.loop.trainer import RunningStats, Trainer, TrainState


class StateError(UserError):
    """The state to resume from is damaged or belongs to another run."""


def save_state(
    path: Path, trainer: Trainer, train_state: TrainState, history: list[dict[str, Any]]
) -> None:
    """Write weights, optimizer, scaler, average, RNG states and position; in the main process.

    All processes have to call it: each has an RNG state of its own.

    Raises:
        CheckpointError: see `staged_weights`.
    """
    accelerator = trainer.accelerator
    rng = gather_object([_rng_state()]) if accelerator.num_processes > 1 else [_rng_state()]
    if not accelerator.is_main_process:
        return
    state = {
        "model": trainer.model.model.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "average": trainer.ema.state_dict() if trainer.ema is not None else None,
        "scaler": accelerator.scaler.state_dict() if accelerator.scaler is not None else None,
        "rng": rng,
        "position": asdict(train_state),
        "history": history,
    }
    with staged_weights(path) as staging:
        torch.save(state, staging)


def save_finished(path: Path, trainer: Trainer, history: list[dict[str, Any]]) -> None:
    """Write that all epochs are done; what is left to do needs the best checkpoint alone."""
    state = {
        "model": None,
        "optimizer": {"state": {}, "param_groups": trainer.optimizer.state_dict()["param_groups"]},
        "position": asdict(TrainState(epoch=history[-1]["epoch"] + 1)),
        "history": history,
    }
    with staged_weights(path) as staging:
        torch.save(state, staging)


def is_finished(state: dict[str, Any]) -> bool:
    """Whether `save_finished` wrote it."""
    return state["model"] is None


def read_state(path: Path) -> dict[str, Any]:
    """Read a state file.

    Raises:
        StateError: it is damaged.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch and zipfile raise many types on damaged files
        raise StateError(f"{path} is damaged; train again in another directory") from error
    return state


def group_names(state: dict[str, Any]) -> set[str]:
    """The layers that were in the optimizer."""
    return {group["name"] for group in state["optimizer"]["param_groups"]}


def restore_state(state: dict[str, Any], trainer: Trainer) -> TrainState:
    """Put a state that isn't finished into a trainer whose optimizer has the same layers.

    Returns:
        the position to go on from.

    Raises:
        StateError: another number of processes wrote it.
    """
    accelerator = trainer.accelerator
    if len(state["rng"]) != accelerator.num_processes:
        raise StateError(
            f"the run was trained by {len(state['rng'])} processes, it can't continue with "
            f"{accelerator.num_processes}"
        )
    trainer.model.model.load_state_dict(state["model"])
    trainer.optimizer.load_state_dict(state["optimizer"])
    if trainer.ema is not None:
        trainer.ema.load_state_dict(state["average"])
    if accelerator.scaler is not None and state["scaler"] is not None:  # None: of another device
        accelerator.scaler.load_state_dict(state["scaler"])
    _set_rng_state(state["rng"][accelerator.process_index])
    train_state = TrainState(**state["position"])
    train_state.stats = RunningStats(**state["position"]["stats"])
    return train_state


def _rng_state() -> dict[str, Any]:
    """Of PyTorch alone: nothing in a run draws from numpy or `random`."""
    cuda = [state.cpu() for state in torch.cuda.get_rng_state_all()]
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def _set_rng_state(state: dict[str, Any]) -> None:
    """Of the GPUs, as many as there are here: a run may go on on another machine."""
    torch.set_rng_state(state["cpu"])
    for number, generator in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(generator, number)
