"""The network on OpenVINO, which computes in bfloat16 and int8 where the processor does, and reads
a bundle's ONNX graphs as they are (docs/benchmarks.md). Needs the extra `openvino`.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.bundle.bundle import weights_beside
from models.bundle.mapped import release_mapped
from models.errors import UserError
from models.extras import install_command

_DEVICE = "CPU"
# Of a telemetry that reports each import of OpenVINO; without the package it does without.
_TELEMETRY = "openvino_telemetry"


class OpenVinoError(UserError):
    """OpenVINO isn't installed, or can't run the model."""


class OpenVinoGraph:
    """A loaded graph: uint8[N,S,S,3] RGB -> its outputs, float32[N,...] each. From several threads,
    whose batches run one after another.

    `outputs`: those of `wanted` that the graph has, in that order.

    Args:
        path: an ONNX graph of this project; its weights may lie beside it.
        wanted: names of outputs.
        threads: of a batch.
        bf16: round weights and activations to bfloat16; of an int8 graph, those that aren't
            quantized.

    Raises:
        OpenVinoError: see there; or the processor doesn't compute in bfloat16.
    """

    provider = "OpenVINO"

    def __init__(
        self, path: Path, wanted: Sequence[str], threads: int, *, bf16: bool = False
    ) -> None:
        if bf16 and not computes_in_bf16():
            raise OpenVinoError(
                "OpenVINO finds no bfloat16 in this processor; it needs AVX512_BF16 or AMX"
            )
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
            "INFERENCE_NUM_THREADS": threads,
            # A batch at a time, on all threads, as they are counted here: cores of a cloud are
            # halves of one, which OpenVINO would leave out.
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "ENABLE_HYPER_THREADING": True,
            # Other processes have these cores as well.
            "ENABLE_CPU_PINNING": False,
        }
        core = _core()
        try:
            self._model = core.compile_model(core.read_model(path), _DEVICE, settings)
        except RuntimeError as error:
            said = " ".join(str(error).split())[-200:]
            raise OpenVinoError(f"OpenVINO can't load {path}: {said}") from error
        places = {output.get_any_name(): n for n, output in enumerate(self._model.outputs)}
        self.outputs = [name for name in wanted if name in places]
        self._places = [places[name] for name in self.outputs]
        self._own = threading.local()
        self._weights: Path | None = weights_beside(path)

    def __call__(self, images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        request = getattr(self._own, "request", None)
        if request is None:
            request = self._own.request = self._model.create_infer_request()
        found = request.infer([images], share_inputs=True)
        weights, self._weights = self._weights, None
        if weights is not None:
            # The first batch has them arranged in memory of its own, and they stay mapped, read by
            # nobody: of VGG-19 544 MB.
            release_mapped(weights)
        # Copies: the request writes its next answers into the same memory.
        return [np.array(found[place], np.float32) for place in self._places]


def openvino_is_installed() -> bool:
    return importlib.util.find_spec("openvino") is not None


@cache
def computes_in_bf16() -> bool:
    """Whether this processor multiplies in bfloat16, by what OpenVINO says; False without it."""
    if not openvino_is_installed():
        return False
    return "BF16" in _core().get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES")


@cache
def _core() -> Any:
    return _openvino().Core()


def _openvino() -> ModuleType:
    sys.modules.setdefault(_TELEMETRY, None)  # type: ignore[arg-type]  # None: it isn't found
    try:
        import openvino  # optional
    except ImportError:
        raise OpenVinoError(
            f"OpenVINO is not installed; install it with {install_command('openvino')}"
        ) from None
    module: ModuleType = openvino
    return module
