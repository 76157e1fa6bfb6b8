"""In which floating-point type the network is computed."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from accelerate import Accelerator

Precision = Literal["no", "bf16", "fp16"]
# Names of PyTorch's for instructions that multiply in bfloat16.
_BF16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16")


def choose_precision(wanted: Literal["auto"] | Precision, device: str) -> Precision:
    """Of the layers that train. `auto` is bf16 where the GPU computes in it, else float32."""
    if wanted != "auto":
        return wanted
    return "bf16" if device == "cuda" and torch.cuda.is_bf16_supported() else "no"


def frozen_precision(wanted: Literal["auto"] | Precision, accelerator: Accelerator) -> Precision:
    """Of the layers whose outputs are cached: as those that train, but `auto` is bf16 on a CPU that
    multiplies in it, where the frozen convolutions take half of float32's time
    (docs/benchmarks.md)."""
    if wanted == "auto" and accelerator.device.type == "cpu" and cpu_computes_in_bf16():
        return "bf16"
    return accelerator.mixed_precision  # type: ignore[no-any-return]  # untyped


def frozen_autocast(precision: Precision, accelerator: Accelerator) -> AbstractContextManager[Any]:
    """Computes in what `frozen_precision` chose."""
    if precision == accelerator.mixed_precision:
        return accelerator.autocast()  # type: ignore[no-any-return]  # untyped
    return torch.autocast(accelerator.device.type, dtype=torch.bfloat16)


def cpu_computes_in_bf16() -> bool:
    """Whether this processor multiplies in bfloat16, by what PyTorch says; before 2.11 it doesn't
    tell."""
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(bool(capabilities.get(name)) for name in _BF16_INSTRUCTIONS)
