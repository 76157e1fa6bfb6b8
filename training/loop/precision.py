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


def convolutions_in_bf16(
    wanted: Literal["auto"] | Precision, accelerator: Accelerator, *, compiled: bool
) -> bool:
    """Whether convolutions that train are computed in bfloat16 and the other layers in float32.

    `auto` does so on a CPU that multiplies in it: a step of all layers takes half of float32's time
    (docs/benchmarks.md). Converting the weights of fully connected layers in each step would eat
    what they gain. Runs that compile, and those of several processes, stay in float32.
    """
    alone = accelerator.num_processes == 1 and not compiled
    on_cpu = accelerator.device.type == "cpu"
    return wanted == "auto" and on_cpu and alone and cpu_computes_in_bf16()


def multiply_with_onednn() -> None:
    """Have oneDNN multiply float32 matrices on the CPU, in the whole process, if it does so in
    float32.

    PyTorch leaves them to MKL, which takes 2 to 3 times as long for FC1 on an AMD processor with
    AVX-512 (docs/benchmarks.md). The switch allows oneDNN to round factors to bfloat16, which it
    does where there is AMX. There it is undone: layers that train stay in float32.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    exact = torch.full((64, 64), 1 + 2**-12)  # bfloat16 has 8 bits of mantissa
    if not torch.equal(exact @ torch.eye(64), exact):
        torch.set_float32_matmul_precision(before)


def cpu_computes_in_bf16() -> bool:
    """Whether this processor multiplies in bfloat16, by what PyTorch says; before 2.11 it doesn't
    tell."""
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(bool(capabilities.get(name)) for name in _BF16_INSTRUCTIONS)
