"""A graph on an NVIDIA GPU by ONNX Runtime's CUDA provider, captured as CUDA graphs.

ONNX Runtime 1.20 and later keep the plans of a convolution for one input shape only, and build them
anew whenever the batch size changes: 75 to 110 ms for VGG-19 on an H200, where a batch of 32 takes
4 (docs/benchmarks.md; issue 23006 of onnxruntime). A captured graph is replayed without a look at
the plans, so each batch size that is used is captured once, when the model is loaded.
"""

from __future__ import annotations

import ctypes
import logging
import math
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from serving.engine.providers import CUDA, load_driver

logger = logging.getLogger(__name__)


class Card:
    """Who may work with this process's GPU.

    While a stream is captured, CUDA forbids all other threads of the process what waits for the
    card (cudaStreamCaptureModeGlobal), and fails the capture and them. So whoever works with it is
    `using` it, beside each other, and who captures is `capturing`, alone.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._users = 0
        self._capturing = False
        self._waiting = 0

    @contextmanager
    def using(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not (self._capturing or self._waiting))
            self._users += 1
        try:
            yield
        finally:
            with self._changed:
                self._users -= 1
                self._changed.notify_all()

    @contextmanager
    def capturing(self) -> Iterator[None]:
        with self._changed:
            self._waiting += 1  # whoever comes now waits, or this might never come to its turn
            self._changed.wait_for(lambda: not (self._capturing or self._users))
            self._waiting -= 1
            self._capturing = True
        try:
            yield
        finally:
            with self._changed:
                self._capturing = False
                self._changed.notify_all()


card = Card()

# One that is filled while another one is copied to the card, and one to spare.
_BUFFERS = 3
_PORTABLE = 1  # CU_MEMHOSTALLOC_PORTABLE: pinned for every context


@dataclass(frozen=True)
class _Captured:
    """A batch size: where its images lie on the card, and what a run of it is bound to."""

    images: ort.OrtValue
    outputs: list[ort.OrtValue]
    binding: ort.IOBinding
    options: ort.RunOptions


class CudaGraphs:
    """Runs a session at the batch sizes that it has captured; others are padded to the next one.

    A captured graph belongs to the thread that captured it, so there is one thread for all runs.
    While it waits for the card, callers fill the next batch in pinned memory.

    Args:
        session: with `enable_cuda_graph`.
        image: shape of an image, uint8.
        outputs: name -> values an image, float32.
        sizes: batch sizes, ascending.
        device_id: of the card.
        device: `cpu` where there is no card to test this on; nothing is captured then.
    """

    provider = CUDA

    def __init__(
        self,
        session: ort.InferenceSession,
        input_name: str,
        image: tuple[int, int, int],
        outputs: dict[str, int],
        sizes: Sequence[int],
        device_id: int,
        device: str = "cuda",
    ) -> None:
        self._session = session
        self._input_name = input_name
        self._image = image
        self._outputs = outputs
        self._device, self._device_id = device, device_id
        self._thread = _Thread("cuda")
        weakref.finalize(self, self._thread.end)
        self._buffers: SimpleQueue[NDArray[np.uint8]] = SimpleQueue()
        for _ in range(_BUFFERS):
            self._buffers.put(pinned_array((sizes[-1], *image), device_id))
        started = time.perf_counter()
        self._captured: dict[int, _Captured] = {}
        for size in sizes:
            self._captured[size] = self._thread.run(self._capture, size).result()
        logger.info(
            "captured batches of %s in %.1f s",
            ", ".join(map(str, sizes)),
            time.perf_counter() - started,
        )

    def __call__(
        self, images: Sequence[NDArray[np.uint8]], options: ort.RunOptions | None = None
    ) -> list[NDArray[np.float32]]:
        """The outputs for 1..`sizes[-1]` images, one row each. From any thread.

        What is beyond them in the batch are images of earlier batches, whose rows are dropped.
        """
        count = len(images)
        size = next(size for size in self._captured if size >= count)
        buffer = self._buffers.get()
        try:
            np.stack(images, out=buffer[:count])
            rows = self._thread.run(self._run, self._captured[size], buffer[:size]).result()
        finally:
            self._buffers.put(buffer)
        return [values[:count] for values in rows]

    def _run(self, captured: _Captured, images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        with card.using():
            captured.images.update_inplace(images)
            self._session.run_with_iobinding(captured.binding, captured.options)
            # A copy: of what lies on the CPU, `numpy` gives the memory that the next run fills.
            return [output.numpy().copy() for output in captured.outputs]

    def _capture(self, size: int) -> _Captured:
        """Run a batch size for the first time: ONNX Runtime captures it."""
        with card.capturing():
            images = self._on_card([size, *self._image], np.uint8)
            outputs = [self._on_card([size, width], np.float32) for width in self._outputs.values()]
            binding = self._session.io_binding()
            binding.bind_ortvalue_input(self._input_name, images)
            for name, output in zip(self._outputs, outputs, strict=True):
                binding.bind_ortvalue_output(name, output)
            options = ort.RunOptions()
            options.add_run_config_entry("gpu_graph_id", str(size))
            images.update_inplace(np.zeros((size, *self._image), np.uint8))
            self._session.run_with_iobinding(binding, options)
            return _Captured(images, outputs, binding, options)

    def _on_card(self, shape: list[int], dtype: type) -> ort.OrtValue:
        return ort.OrtValue.ortvalue_from_shape_and_type(
            shape, dtype, self._device, self._device_id
        )


class _Thread:
    """Runs functions one after another. A daemon: one that hangs doesn't keep the process alive."""

    def __init__(self, name: str) -> None:
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        threading.Thread(target=_work, args=(self._tasks,), name=name, daemon=True).start()

    def run(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()

        def task() -> None:
            try:
                future.set_result(function(*arguments))
            except BaseException as error:
                future.set_exception(error)

        self._tasks.put(task)
        return future

    def end(self) -> None:
        """After what was given to it."""
        self._tasks.put(None)


def _work(tasks: SimpleQueue[Callable[[], None] | None]) -> None:
    while (task := tasks.get()) is not None:
        task()
        del task  # while waiting for the next, nothing of a model is kept


def pinned_array(shape: tuple[int, ...], device_id: int) -> NDArray[np.uint8]:
    """uint8 in page-locked memory, which the card reads by itself: a batch of 32 images of 224 px
    takes 0.10 ms to an H200, and 0.33 from other memory. Where there is none, other memory."""
    size = math.prod(shape)
    driver = load_driver()
    device, context, pointer = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p()
    if (
        driver is None
        or driver.cuInit(0)
        or driver.cuDeviceGet(ctypes.byref(device), device_id)
        or driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
        or driver.cuCtxSetCurrent(context)
        or driver.cuMemHostAlloc(ctypes.byref(pointer), ctypes.c_size_t(size), _PORTABLE)
    ):
        logger.info("no pinned memory; batches are copied to the GPU from pageable memory")
        return np.zeros(shape, np.uint8)
    memory: Any = (ctypes.c_uint8 * size).from_address(pointer.value or 0)
    weakref.finalize(memory, driver.cuMemFreeHost, pointer)
    array: NDArray[np.uint8] = np.frombuffer(memory, np.uint8).reshape(shape)
    array[:] = 0
    return array
