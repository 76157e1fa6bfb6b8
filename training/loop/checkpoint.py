"""Checkpoints: safetensors with the model's spec in the header, written in one step."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models.bundle.spec import ModelSpec
from models.errors import UserError
from models.files import staged_file
from models.network.architectures import architecture

_SPEC_KEY = "spec"


class CheckpointError(UserError):
    """A checkpoint is missing or damaged, or can't be written."""


@contextmanager
def staged_weights(path: Path) -> Iterator[Path]:
    """A `staged_file` for safetensors or torch, which report a full disk each in its own way.

    Raises:
        CheckpointError: the disk is full, or fails.
    """
    with staged_file(path) as staging:
        try:
            yield staging
        except (SafetensorError, RuntimeError) as error:
            free = shutil.disk_usage(path.parent).free
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(
                f"{path} can't be written ({reason}); its disk has {free / 1e6:,.0f} MB left: make "
                "room, then continue with 'vgg19 train --resume' and the run directory"
            ) from error


def save_checkpoint(state: Mapping[str, Tensor], spec: ModelSpec, path: Path) -> None:
    """Replace `path` by a model's state dict; a crash leaves the old file or the new one.

    Raises:
        CheckpointError: see `staged_weights`.
    """
    contiguous = {name: tensor.contiguous() for name, tensor in state.items()}
    with staged_weights(path) as staging:
        save_file(contiguous, staging, metadata={_SPEC_KEY: spec.model_dump_json()})


def load_checkpoint(path: Path) -> tuple[nn.Module, ModelSpec]:
    """Read a checkpoint back: the model on the CPU, in eval mode, and its spec.

    Raises:
        CheckpointError: no such file, damaged, or not written by `save_checkpoint`.
        ArchitectureError: it is of a network that there is none of here.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}; train first, with 'vgg19 train'")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        spec = ModelSpec.model_validate_json(metadata[_SPEC_KEY])
        model = architecture(spec.architecture).empty(num_classes=len(spec.labels))
        model.load_state_dict(load_file(path), assign=True)
    except (SafetensorError, OSError, KeyError, ValidationError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"checkpoint {path} is damaged or was not written by 'vgg19 train' ({reason}); use "
            "the other checkpoint in that directory or train again"
        ) from error
    model.requires_grad_(True)
    return model.to(torch.float32).eval(), spec


def weights_digest(checkpoint: Path) -> str:
    """SHA-256 of the weights alone, whatever the file says besides.

    Raises:
        CheckpointError: no such file, or damaged.
    """
    digest = hashlib.sha256()
    try:
        weights = load_file(checkpoint)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"checkpoint {checkpoint} is missing or damaged: {error}") from None
    for name, tensor in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
