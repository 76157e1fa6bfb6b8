"""The network on ncnn, whose Winograd convolutions are faster than ONNX Runtime's on processors
with AVX2 (docs/benchmarks.md). Needs the extra `cpu-fast`.

Two files, in the format of ncnn (github.com/Tencent/ncnn/wiki/param-and-model-file-structure):
`.param` names the layers, `.bin` holds their weights in float32.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.bundle.bundle import FEATURES_OUTPUT
from models.bundle.spec import ModelSpec
from models.errors import UserError
from models.extras import install_command

INPUT, OUTPUT = "images", "probabilities"


class NcnnError(UserError):
    """ncnn isn't installed, or can't run the model."""


class NcnnGraph:
    """A loaded network: uint8[N,S,S,3] RGB -> float32[N,C] probabilities, and float32[N,4096], what
    FC2 gives (None: the files are from before it was kept).

    Args:
        param: the `.param` file; the weights lie beside it as `.bin`.
        threads: of an image. The images of a batch run one after another, each on all threads:
            ncnn lays out its weights for a number of threads when it loads them, and two images
            beside each other on one thread each were only 6% faster.

    Raises:
        NcnnError: see there.
    """

    provider = "ncnn"

    def __init__(self, param: Path, spec: ModelSpec, threads: int) -> None:
        self._ncnn = _ncnn()
        self._net = self._ncnn.Net()
        # All on by default where the processor has them; half precision costs 3 digits.
        for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
            setattr(self._net.opt, f"use_{option}", False)
        self._net.opt.num_threads = threads
        if self._net.load_param(str(param)) or self._net.load_model(str(param.with_suffix(".bin"))):
            raise NcnnError(f"ncnn can't load {param}; export the run again")
        self._has_features = f" {FEATURES_OUTPUT} " in param.read_text(encoding="utf-8")
        preprocessing = spec.preprocessing
        self._mean = [255 * value for value in preprocessing.mean]
        self._scale = [1 / (255 * value) for value in preprocessing.std]

    def __call__(
        self, images: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        # In this order: what a later layer has read is gone.
        names = (FEATURES_OUTPUT, OUTPUT) if self._has_features else (OUTPUT,)
        rows = [self._answer(image, names) for image in images]
        *features, probabilities = (np.stack(values) for values in zip(*rows, strict=True))
        return probabilities, features[0] if features else None

    def _answer(self, image: NDArray[np.uint8], names: Sequence[str]) -> list[NDArray[np.float32]]:
        pixels = self._ncnn.Mat.from_pixels(
            np.ascontiguousarray(image),
            self._ncnn.Mat.PixelType.PIXEL_RGB,
            image.shape[1],
            image.shape[0],
        )
        pixels.substract_mean_normalize(self._mean, self._scale)
        extractor = self._net.create_extractor()
        extractor.input(INPUT, pixels)
        outputs = []
        for name in names:
            failed, output = extractor.extract(name)
            if failed:
                raise NcnnError("ncnn failed; the log has its reason")
            outputs.append(np.array(output, np.float32))
        return outputs


def ncnn_is_installed() -> bool:
    return importlib.util.find_spec("ncnn") is not None


def _ncnn() -> Any:
    try:
        import ncnn  # optional
    except ImportError:
        raise NcnnError(
            f"ncnn is not installed; install it with {install_command('cpu-fast')}"
        ) from None
    module: ModuleType = ncnn
    return module
