"""What the machine is, and what really starts on it."""

from __future__ import annotations

import subprocess
from importlib.metadata import PackageNotFoundError, version

import onnxruntime as ort
import torch

from benchmarks.gpu.place import Place
from benchmarks.gpu.timing import median_seconds, open_card, synchronised
from benchmarks.machine import describe_machine
from serving.engine.providers import gpu_count, has_cuda_driver

_PACKAGES = (
    "torch", "torchvision", "accelerate", "onnxruntime-gpu", "onnxruntime", "bentoml", "numpy",
    "pillow", "cykooz-resizer", "grpcio", "nvidia-cudnn-cu13", "nvidia-cublas", "triton",
)  # fmt: skip
_SIDE, _COPY_BYTES = 8192, 2**31


def run(place: Place) -> None:
    place.add("machine", **describe_machine())
    place.add("packages", **{name: _version(name) for name in _PACKAGES})
    place.add(
        "serving's view",
        driver=has_cuda_driver(),
        gpus=gpu_count(),
        providers=ort.get_available_providers(),
    )
    if place.on_gpu:
        _card(place)
        _ceilings(place)


def _card(place: Place) -> None:
    properties = torch.cuda.get_device_properties(0)
    place.add(
        "card",
        name=properties.name,
        memory_gb=round(properties.total_memory / 1e9, 1),
        multiprocessors=properties.multi_processor_count,
        capability=f"{properties.major}.{properties.minor}",
        driver=_driver(),
        cuda=torch.version.cuda,
        cudnn=torch.backends.cudnn.version(),
        bf16=torch.cuda.is_bf16_supported(),
    )
    listed = subprocess.run(["nvidia-smi"], capture_output=True, text=True, check=False)
    print(listed.stdout or listed.stderr, flush=True)


def _ceilings(place: Place) -> None:
    """What the card can do at most: a large matrix product, a large copy, and copies to it."""
    flops = 2 * _SIDE**3
    for name, dtype, tf32 in (
        ("float16", torch.float16, False),
        ("bfloat16", torch.bfloat16, False),
        ("tf32", torch.float32, True),
        ("float32", torch.float32, False),
    ):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        left, right = (torch.randn(_SIDE, _SIDE, device="cuda", dtype=dtype) for _ in range(2))
        seconds = median_seconds(synchronised(lambda a=left, b=right: a @ b), 0.5)  # type: ignore[misc]
        place.add(f"matrix product {name}", tflops=flops / seconds / 1e12)
    source = torch.empty(_COPY_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    seconds = median_seconds(synchronised(lambda: target.copy_(source)), 0.3)
    place.add("copy on the card, read and written", gb_per_s=2 * _COPY_BYTES / seconds / 1e9)
    batch = 32 * 224 * 224 * 3
    onto = torch.empty(batch, dtype=torch.uint8, device="cuda")
    for name, host in (
        ("pageable", torch.zeros(batch, dtype=torch.uint8)),
        ("pinned", torch.zeros(batch, dtype=torch.uint8).pin_memory()),
    ):
        seconds = median_seconds(synchronised(lambda h=host: onto.copy_(h)), 0.2)  # type: ignore[misc]
        place.add(f"copy of a batch of 32 to the card, {name}", ms=1e3 * seconds)


def _driver() -> str:
    card = open_card()
    return str(card[0].nvmlSystemGetDriverVersion()) if card else ""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
