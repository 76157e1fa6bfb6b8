"""Accelerate, on the device that was asked for."""

from __future__ import annotations

from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType

from training.loop.precision import choose_precision, multiply_with_onednn
from training.loop.trainer import TrainingError

# Four float32 of each of the 143.7 million parameters (weight, gradient, two moments) are 2.3 GB,
# which no GPU of today needs to split. What stands in the way: best weights, state and report are
# made of whole weights by one process, and Accelerate shards on no CPU, so no test could show it.
_SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)


def make_accelerator(
    device: str, mixed_precision: Literal["auto", "no", "bf16", "fp16"], **options: Any
) -> Accelerator:
    """Accelerate on the chosen device; `auto` takes CUDA, then Apple's GPU, then the CPU.

    Raises:
        TrainingError: the named device isn't there, or Accelerate is configured to shard.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if device == "auto":
        device = next(name for name, there in available.items() if there)
    if not available[device]:
        usable = ", ".join(name for name, there in available.items() if there)
        raise TrainingError(
            f"device is '{device}', which PyTorch doesn't find here (it finds {usable}); use "
            "device auto"
        )
    if device == "cpu":
        multiply_with_onednn()
    accelerator = Accelerator(
        cpu=device == "cpu",
        mixed_precision=choose_precision(mixed_precision, device),
        **options,
    )
    if accelerator.distributed_type in _SHARDED:
        raise TrainingError(
            f"Accelerate is configured for {accelerator.distributed_type.value}, which splits the "
            "weights among processes, and checkpoints need them whole; VGG-19 and AdamW take 2.3 "
            "GB on each GPU without it: run torchrun, or choose no FSDP in 'accelerate config'"
        )
    return accelerator
