"""`vgg19 doctor`: what this machine would run the model on, and why. `python -m serving.doctor`."""

from __future__ import annotations

import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import onnxruntime as ort

from models.errors import UserError
from models.machine import cpu_count
from models.registry import store
from models.text import escape_unencodable, shown
from serving.engine.providers import device_name, gpu_count, has_cuda_driver
from serving.engine.session import Session
from serving.loading import open_session, session_options, use_store
from serving.settings import Settings, load_settings

_PACKAGES = (
    "bentoml",
    "onnxruntime-gpu",
    "onnxruntime",
    "nvidia-cudnn-cu13",
    "nvidia-cuda-runtime",
    "grpcio",
    "numpy",
    "pillow",
)
_PROBE_ROUNDS = 5
# On an H200 with 16 cores, four workers answered 3.4 times as many JPEGs as one, eight 4.5 times
# (docs/benchmarks.md).
_CORES_A_WORKER = 4


def diagnose(say: Callable[[str], None]) -> bool:
    """Tell what there is, and try it.

    Returns:
        whether the service would start.
    """
    say(f"machine     {platform.machine()}, {platform.system()}, {cpu_count()} cores to use")
    say(f"versions    Python {platform.python_version()}, {_versions()}")
    say(f"providers   {', '.join(ort.get_available_providers())} (built into ONNX Runtime)")
    say(
        f"driver      {'found' if has_cuda_driver() else 'none'} (libcuda.so.1), {gpu_count()} GPUs"
    )
    try:
        _try_out(load_settings(), say)
    except UserError as error:
        say(f"problem     {error}")
        return False
    return True


def _try_out(settings: Settings, say: Callable[[str], None]) -> None:
    """Raises UserError for what would keep the service from starting."""
    use_store(settings)
    options = session_options(settings, worker_index=1)
    asked = f"VGG19_DEVICE is {settings.device}"
    reason = {"cpu": asked, "cuda": asked}.get(
        settings.device,
        f"{asked}, and a GPU can be asked for"
        if len(options.providers) > 1
        else f"{asked}, and there is no driver or no CUDA provider",
    )
    say(f"would use   {', '.join(name for name, _ in options.providers)}: {reason}")
    for name, values in options.providers:
        if values:
            say(f"  {name}: {', '.join(f'{k}={v}' for k, v in values.items())}")
    model = store.resolve(settings.model)
    started = time.perf_counter()
    _, session = open_session(settings, options, model)
    say(
        f"model       {store.MODEL_NAME}:{model} loaded, golden samples equal, warmed, on "
        f"{session.provider}, in {time.perf_counter() - started:.1f} s"
    )
    for size in sorted({1, session.max_batch_size}):
        say(f"probe       a batch of {size}: {_probe(session, size):.1f} ms")
    if device_name(session.provider) == "gpu" and (
        sentence := workers_advice(cpu_count(), settings.workers)
    ):
        say(f"advice      {sentence}")


def workers_advice(cores: int, workers: int) -> str | None:
    """What a machine with a GPU should be told about its workers, if anything."""
    better = cores // _CORES_A_WORKER
    if better <= workers:
        return None
    return (
        f"a worker prepares images on about three cores, whatever the GPU can do: with {cores} "
        f"cores, VGG19_WORKERS={better} answers more requests than {workers}, if the GPU has "
        "memory for as many models"
    )


def _probe(session: Session, size: int) -> float:
    """Median milliseconds of a batch of blank images."""
    image = np.zeros(session.input_shape, np.uint8)
    times = []
    for _ in range(_PROBE_ROUNDS):
        started = time.perf_counter()
        session.run([image] * size)
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1000


def _versions() -> str:
    found = []
    for package in _PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


if __name__ == "__main__":
    escape_unencodable()
    sys.exit(0 if diagnose(lambda line: print(shown(line))) else 1)
