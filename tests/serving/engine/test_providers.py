"""Decisions only: nothing of this was run on a GPU."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import pytest

from serving.engine import providers
from serving.engine.providers import (
    CPU,
    CUDA,
    TENSORRT,
    GpuOptions,
    Precision,
    SessionError,
    choose_providers,
    cuda_options,
    device_for_worker,
    gpu_count,
    has_cuda_driver,
    tensorrt_options,
)

FULL_BUILD, GPU_BUILD, CPU_BUILD = [TENSORRT, CUDA, CPU], [CUDA, CPU], [CPU]
PLAIN = GpuOptions()


def names(device: Any, gpu: GpuOptions, available: list[str], has_driver: bool) -> list[str]:
    return [name for name, _ in choose_providers(device, gpu, available, has_driver)]


@pytest.mark.parametrize("device", ["cuda", "auto"])
def test_cuda_first_where_it_is(device: Any) -> None:
    assert names(device, PLAIN, FULL_BUILD, True) == [CUDA, CPU]


@pytest.mark.parametrize("device", ["cuda", "auto"])
def test_tensorrt_only_when_asked_for(device: Any) -> None:
    assert names(device, GpuOptions(tensorrt=True), FULL_BUILD, True) == [TENSORRT, CUDA, CPU]


@pytest.mark.parametrize(
    ("available", "has_driver", "reason"),
    [
        (GPU_BUILD, False, "NVIDIA's driver .* is not on this machine"),
        (CPU_BUILD, True, "has no CUDAExecutionProvider"),
        (CPU_BUILD, False, "has no CUDAExecutionProvider"),
    ],
)
def test_without_it_auto_takes_the_cpu_and_cuda_fails(
    available: list[str], has_driver: bool, reason: str
) -> None:
    assert names("auto", PLAIN, available, has_driver) == [CPU]
    with pytest.raises(SessionError, match=f"VGG19_DEVICE is cuda, but .*{reason}"):
        choose_providers("cuda", PLAIN, available, has_driver)


def test_cpu_is_cpu_even_with_a_gpu() -> None:
    assert names("cpu", PLAIN, FULL_BUILD, True) == [CPU]


@pytest.mark.parametrize(
    ("device", "gpu", "available", "words"),
    [
        ("cuda", GpuOptions(tensorrt=True), GPU_BUILD, "has no TensorrtExecutionProvider"),
        ("cpu", GpuOptions(tensorrt=True), FULL_BUILD, "there is no GPU to use"),
        ("cpu", GpuOptions(precision="float16"), FULL_BUILD, "choose float32, bf16, fc8 or int8"),
    ],
)
def test_what_cannot_be_had_is_an_error(
    device: Any, gpu: GpuOptions, available: list[str], words: str
) -> None:
    with pytest.raises(SessionError, match=words):
        choose_providers(device, gpu, available, True)


TENSOR_CORES = ("use_tf32", "prefer_nhwc", "fuse_conv_bias")


def test_options_of_cuda() -> None:
    assert cuda_options(PLAIN) == {
        "device_id": "0",
        "cudnn_conv_algo_search": "HEURISTIC",
        **dict.fromkeys(TENSOR_CORES, "0"),
    }
    options = cuda_options(GpuOptions(precision="tf32", mem_limit_bytes=2**31, device_id=3))
    assert (options["use_tf32"], options["gpu_mem_limit"], options["device_id"]) == (
        "1", "2147483648", "3",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("precision", "expected"),
    # In float16 without `use_tf32`, ONNX Runtime looks for convolutions without tensor cores.
    [("float32", "0"), ("tf32", "1"), ("float16", "1"), ("auto", "1"), ("fc8", "0"), ("int8", "0")],
)
def test_which_precisions_may_use_tensor_cores(precision: Precision, expected: str) -> None:
    options = cuda_options(GpuOptions(precision=precision))
    assert {options[name] for name in TENSOR_CORES} == {expected}


def test_options_of_tensorrt() -> None:
    assert tensorrt_options(PLAIN) == {"device_id": "0", "trt_fp16_enable": "False"}
    options = tensorrt_options(GpuOptions(precision="float16", engine_cache=Path("/engines")))
    assert options["trt_fp16_enable"] == "True"
    assert options["trt_engine_cache_enable"] == "True"
    assert options["trt_engine_cache_path"] == "/engines"


def test_each_worker_takes_its_own_gpu_and_then_round_again() -> None:
    assert [device_for_worker(worker, gpus=3) for worker in (1, 2, 3, 4)] == [0, 1, 2, 0]
    assert device_for_worker(5, gpus=0) == 0


class Driver:
    """Stands for libcuda: `initialised` is what cuInit returns, 0 for success."""

    def __init__(self, gpus: int, initialised: int = 0) -> None:
        self.gpus = gpus
        self.initialised = initialised

    def cuInit(self, flags: int) -> int:  # noqa: N802
        assert flags == 0
        return self.initialised

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        count._obj.value = self.gpus
        return 0


def test_gpus_are_counted_by_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver(4))
    assert (has_cuda_driver(), gpu_count()) == (True, 4)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver(4, initialised=100))  # no device
    assert gpu_count() == 0


def test_without_a_driver_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "load_driver", lambda: None)
    assert (has_cuda_driver(), gpu_count()) == (False, 0)
