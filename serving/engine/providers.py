"""Which execution providers the model runs on, and with what options.

The CUDA provider's options were measured on an H200 (docs/benchmarks.md); TensorRT's follow ONNX
Runtime's documentation and have not been run.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from models.bundle.ncnn_graph import NcnnGraph
from models.bundle.openvino_graph import OpenVinoGraph
from models.bundle.variants import CpuEngine
from models.errors import UserError

Device = Literal["auto", "cuda", "cpu"]
Precision = Literal["float32", "tf32", "float16", "bf16", "fc8", "fc4", "int8", "auto"]
Provider = str
ProviderChoice = tuple[Provider, dict[str, str]]

TENSORRT = "TensorrtExecutionProvider"
CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"


def device_name(provider: Provider) -> Literal["cpu", "gpu"]:
    """What a provider runs on."""
    return "gpu" if provider in (CUDA, TENSORRT) else "cpu"


_ENGINES: dict[Provider, CpuEngine] = {
    NcnnGraph.provider: "ncnn",
    OpenVinoGraph.provider: "openvino",
}


def engine_name(provider: Provider) -> CpuEngine:
    """Whose provider it is."""
    return _ENGINES.get(provider, "onnxruntime")


class SessionError(UserError):
    """The model can't be run as asked for."""


@dataclass(frozen=True)
class GpuOptions:
    """What is asked of a GPU.

    Args:
        precision: `float32` is what golden samples are compared in; `tf32` rounds inputs of
            convolutions and matrix products to 10 bits; `float16` is the model's variant fp16, or
            TensorRT's own; `auto` is float16 where the model has it, else tf32; the others are
            variants of the model as well, see
            `serving.engine.choice`.
        tensorrt: build TensorRT engines, which takes minutes at the first start.
        mem_limit_bytes: of ONNX Runtime's memory arena; 0: all there is.
        device_id: which GPU.
        engine_cache: folder in which TensorRT keeps its engines; None: built at each start.
    """

    precision: Precision = "float32"
    tensorrt: bool = False
    mem_limit_bytes: int = 0
    device_id: int = 0
    engine_cache: Path | None = None


def choose_providers(
    device: Device, gpu: GpuOptions, available: Sequence[str], has_driver: bool
) -> list[ProviderChoice]:
    """The execution providers to ask ONNX Runtime for, in order.

    Args:
        available: the providers that this ONNX Runtime was built with.
        has_driver: NVIDIA's driver is on this machine.

    Raises:
        SessionError: what was asked for can't be had here.
    """
    usable = CUDA in available and has_driver
    if device == "cpu" or (device == "auto" and not usable):
        if gpu.tensorrt:
            raise SessionError("VGG19_TENSORRT is true, but there is no GPU to use; switch it off")
        if gpu.precision == "float16":
            raise SessionError(
                "VGG19_PRECISION is float16, but there is no GPU to use, and processors compute in "
                "float32 what is stored in float16; choose float32, bf16, fc8 or int8"
            )
        return [(CPU, {})]
    if not has_driver and CUDA in available:
        raise SessionError(
            "VGG19_DEVICE is cuda, but NVIDIA's driver (libcuda.so.1) is not on this machine; "
            "install it or set VGG19_DEVICE=cpu"
        )
    if CUDA not in available:
        raise SessionError(
            f"VGG19_DEVICE is cuda, but this ONNX Runtime has no {CUDA} (it has "
            f"{', '.join(available)}); install onnxruntime-gpu or set VGG19_DEVICE=cpu"
        )
    if gpu.tensorrt and TENSORRT not in available:
        raise SessionError(
            f"VGG19_TENSORRT is true, but this ONNX Runtime has no {TENSORRT}; switch it off"
        )
    first = [(TENSORRT, tensorrt_options(gpu))] if gpu.tensorrt else []
    return [*first, (CUDA, cuda_options(gpu)), (CPU, {})]


def cuda_options(gpu: GpuOptions) -> dict[str, str]:
    """For the CUDA provider.

    `use_tf32` admits tensor cores at all, in float16 as well: without it ONNX Runtime looks for a
    convolution without them first, which takes 1.15 of the time, and with EXHAUSTIVE finds one,
    which takes 8 times as long. Otherwise HEURISTIC and EXHAUSTIVE, the default, are equal, and it
    is quicker to load. On tensor cores, channels last takes 0.66 (float16) and 0.75 (TF32) of the
    time; without them, 1.08. All on an H200 (docs/benchmarks.md).
    """
    tensor_cores = "1" if uses_tensor_cores(gpu) else "0"
    options = {
        "device_id": str(gpu.device_id),
        "cudnn_conv_algo_search": "HEURISTIC",
        "use_tf32": tensor_cores,
        "prefer_nhwc": tensor_cores,
        "fuse_conv_bias": tensor_cores,
    }
    if gpu.mem_limit_bytes:
        options["gpu_mem_limit"] = str(gpu.mem_limit_bytes)
    return options


def uses_tensor_cores(gpu: GpuOptions) -> bool:
    """Whether convolutions may round their inputs to the 10 bits of TF32 or float16."""
    return gpu.precision in ("tf32", "float16", "auto")


def tensorrt_options(gpu: GpuOptions) -> dict[str, str]:
    options = {
        "device_id": str(gpu.device_id),
        "trt_fp16_enable": "True" if gpu.precision == "float16" else "False",
    }
    if gpu.mem_limit_bytes:
        options["trt_max_workspace_size"] = str(gpu.mem_limit_bytes)
    if gpu.engine_cache is not None:
        options["trt_engine_cache_enable"] = "True"
        options["trt_engine_cache_path"] = str(gpu.engine_cache)
    return options


def device_for_worker(worker_index: int, gpus: int) -> int:
    """The GPU of a BentoML worker (counted from 1): each its own, then round again."""
    return (worker_index - 1) % gpus if gpus else 0


def has_cuda_driver() -> bool:
    """Whether NVIDIA's driver library can be loaded; without it CUDA providers only log errors."""
    return load_driver() is not None


def gpu_count() -> int:
    """GPUs that this process may use (CUDA_VISIBLE_DEVICES included), asked of the driver."""
    driver = load_driver()
    count = ctypes.c_int(0)
    if driver is None or driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def load_driver() -> ctypes.CDLL | None:
    """NVIDIA's driver library, or None."""
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
