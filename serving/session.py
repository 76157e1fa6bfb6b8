"""The ONNX Runtime session: uint8[N,S,S,3] RGB -> float32[N,C] probabilities."""

from __future__ import annotations

import ctypes
import logging
import time
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from models.bundle import Bundle, GoldenSamples
from models.errors import UserError

logger = logging.getLogger(__name__)

Device = Literal["auto", "cuda", "cpu"]
CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"

# Not run on a GPU here. HEURISTIC: the exhaustive default re-tunes cuDNN for every new shape.
# use_tf32 off: golden samples are compared in float32, to the bundle's tolerance.
# Source: ONNX Runtime documentation, "CUDA Execution Provider".
CUDA_OPTIONS = {"device_id": "0", "cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0"}


class SessionError(UserError):
    """The model can't be run as asked for."""


def choose_providers(
    device: Device, available: Sequence[str], has_driver: bool
) -> list[tuple[str, dict[str, str]]]:
    """Which execution providers to ask ONNX Runtime for, in order.

    Args:
        available: the providers that this ONNX Runtime was built with.
        has_driver: NVIDIA's driver is on this machine.

    Raises:
        SessionError: `cuda`, but no CUDA provider or no driver.
    """
    if device == "cpu":
        return [(CPU, {})]
    if CUDA in available and has_driver:
        return [(CUDA, CUDA_OPTIONS), (CPU, {})]
    if device == "auto":
        return [(CPU, {})]
    if CUDA in available:
        raise SessionError(
            "VGG19_DEVICE is cuda, but NVIDIA's driver (libcuda.so.1) is not on this machine; "
            "install it or set VGG19_DEVICE=cpu"
        )
    raise SessionError(
        f"VGG19_DEVICE is cuda, but this ONNX Runtime has no {CUDA} (it has "
        f"{', '.join(available)}); install onnxruntime-gpu or set VGG19_DEVICE=cpu"
    )


def check_device(device: Device) -> None:
    """Raise SessionError if this machine lacks what `device` needs."""
    choose_providers(device, ort.get_available_providers(), has_cuda_driver())


def has_cuda_driver() -> bool:
    """Whether NVIDIA's driver library can be loaded; without it CUDA providers only log errors."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def batch_buckets(max_batch_size: int) -> list[int]:
    """The batch sizes that a GPU session runs: 1, 2, 4, ... and `max_batch_size`."""
    buckets = [1]
    while buckets[-1] * 2 < max_batch_size:
        buckets.append(buckets[-1] * 2)
    if buckets[-1] < max_batch_size:
        buckets.append(max_batch_size)
    return buckets


class Session:
    """A loaded model, its golden samples replayed and its batch sizes warmed.

    Args:
        bundle: the model.
        device: `cuda` must be CUDA or fails; `auto` may fall back to the CPU, and logs it.
        intra_op_threads: threads of one batch on the CPU.
        max_batch_size: largest batch that `run` will be called with.

    Raises:
        SessionError: the device isn't there, or the model doesn't reproduce its golden samples.
        BundleError: the golden samples can't be read.
    """

    def __init__(
        self, bundle: Bundle, *, device: Device, intra_op_threads: int, max_batch_size: int
    ) -> None:
        self._spec = bundle.spec
        self._session = _load(bundle, device, intra_op_threads)
        self.provider: str = self._session.get_providers()[0]
        if device == "cuda" and self.provider != CUDA:
            raise SessionError(
                f"VGG19_DEVICE is cuda, but {CUDA} did not start (the reason is in the log above: "
                "driver, CUDA or cuDNN libraries); repair it or set VGG19_DEVICE=cpu"
            )
        # Padding to a bucket saves cuDNN a re-tune; on the CPU it would only cost time.
        self._buckets = batch_buckets(max_batch_size) if self.provider == CUDA else []
        self._replay(bundle.golden())
        self._warm_up(max_batch_size)

    def run(self, images: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        """Run one batch.

        Args:
            images: 1..`max_batch_size` of uint8[S,S,3], RGB.

        Returns:
            N of float32[C], each summing to 1, in the order of `images`.
        """
        batch = np.stack(images)
        padded = self._pad(batch)
        feed = {self._spec.input_name: padded}
        (probabilities,) = self._session.run([self._spec.output_name], feed)
        return list(probabilities[: len(batch)])

    def _pad(self, batch: NDArray[np.uint8]) -> NDArray[np.uint8]:
        bucket = next((size for size in self._buckets if size >= len(batch)), len(batch))
        missing = bucket - len(batch)
        return np.pad(batch, ((0, missing), (0, 0), (0, 0), (0, 0))) if missing else batch

    def _replay(self, golden: GoldenSamples) -> None:
        for image, expected in zip(golden.images, golden.probabilities, strict=True):
            difference = float(np.abs(self.run([image])[0] - expected).max())
            if not difference <= golden.tolerance:  # NaN fails, too
                raise SessionError(
                    f"on {self.provider} the model differs from its golden samples by "
                    f"{difference:.2e} in a probability, the limit is {golden.tolerance:.0e}; it "
                    "is not served, export it again"
                )

    def _warm_up(self, max_batch_size: int) -> None:
        """Run each batch size that will occur once, so that no request pays for the first time."""
        size = self._spec.preprocessing.image_size
        blank = np.zeros((size, size, 3), np.uint8)
        for batch_size in self._buckets or [1, max_batch_size]:
            started = time.perf_counter()
            self.run([blank] * batch_size)
            seconds = time.perf_counter() - started
            logger.info("warm-up: a batch of %d took %.3f s", batch_size, seconds)


def _load(bundle: Bundle, device: Device, intra_op_threads: int) -> Any:
    providers = choose_providers(device, ort.get_available_providers(), has_cuda_driver())
    if providers[0][0] == CUDA:
        ort.preload_dlls()  # finds CUDA and cuDNN installed as pip packages
    options = ort.SessionOptions()
    options.intra_op_num_threads = intra_op_threads
    try:
        session = ort.InferenceSession(bundle.model_path, options, providers=providers)
    except Exception as error:
        logger.exception("ONNX Runtime can't load %s", bundle.model_path)
        raise SessionError(
            f"ONNX Runtime can't load {bundle.model_path}: {' '.join(str(error).split())[:200]}"
        ) from error
    if device == "auto" and session.get_providers()[0] == CPU:
        logger.info("no working CUDA provider: the model runs on the CPU")
    return session
