"""Processes that train together (`torchrun`): what one of them does for all, however long it takes.

Who waits in a collective of NCCL is ended after ten minutes, of gloo after thirty. Checking a
million images takes longer, and so may judging a run. So the others wait in a group of their own.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch.distributed as dist
from accelerate import Accelerator

from models.errors import UserError
from training.data.image_data import ImageData
from training.data.listing import SPLITS, DataError

T = TypeVar("T")
# Longer than any job: what ends the wait is the work's end, or that of its process.
_PATIENCE = timedelta(days=30)


class Processes:
    """All processes of a run. Each makes one, and calls the same methods in the same order."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._is_main = accelerator.is_main_process
        self._group: Any = None
        if accelerator.num_processes > 1:
            self._group = dist.new_group(backend="gloo", timeout=_PATIENCE)

    def from_main(self, make: Callable[[], T]) -> T:
        """What `make` gives, which is called in the main process alone; the others get a copy.

        Raises:
            UserError: `make` raised it; in the others one with the same words.
        """
        if self._group is None:
            return make()
        made: list[T | UserError | None] = [None]
        if self._is_main:
            try:
                made = [make()]
            except UserError as error:
                made = [UserError(str(error))]  # of the others: they are told what it was
                dist.broadcast_object_list(made, src=0, group=self._group)
                raise
        dist.broadcast_object_list(made, src=0, group=self._group)
        if isinstance(made[0], UserError):
            raise made[0]
        return cast(T, made[0])

    def wait(self) -> None:
        """Until all are here."""
        if self._group is not None:
            dist.barrier(group=self._group)


def check_reachable(data: ImageData) -> None:
    """Where another process has looked at the images: see whether this one has them, too.

    Raises:
        DataError: the first image of a split isn't there.
    """
    for split in SPLITS:
        for sample in data.split(split)[:1]:
            if not sample.path.exists():
                raise DataError(
                    f"{sample.path} is not there on {socket.gethostname()}; processes that train "
                    "together need the images at the same path on each machine"
                )
