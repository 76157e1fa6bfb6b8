"""Golden samples: inputs with PyTorch's answers, and how far other engines may be from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from models.errors import BundleError

# Largest difference in any probability between ONNX Runtime and PyTorch (float32 on both sides).
PARITY_TOLERANCE = 1e-4
# The same where the GPU's tensor cores round inputs to 10 bits (TF32, float16): up to 1.2e-3 was
# measured on an H200 with random weights (docs/benchmarks.md), and other cards add up in another
# order. A graph or a card that is wrong is off by tenths.
TENSOR_CORE_TOLERANCE = 1e-2


class GoldenSamples(BaseModel):
    """Inputs with the outputs that PyTorch gave, replayed wherever the model is loaded.

    images: uint8[N,S,S,3], RGB. probabilities: float32[N,C]. tolerance: largest allowed
    difference in any probability.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    images: NDArray[np.uint8]
    probabilities: NDArray[np.float32]
    tolerance: float = PARITY_TOLERANCE

    def write(self, path: Path) -> None:
        np.savez(
            path,
            images=self.images,
            probabilities=self.probabilities,
            tolerance=np.float64(self.tolerance),
        )

    @classmethod
    def read(cls, path: Path) -> GoldenSamples:
        """Read `golden.npz` (never unpickling).

        Raises:
            BundleError: the file is damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return cls(
                    images=arrays["images"],
                    probabilities=arrays["probabilities"],
                    tolerance=float(arrays["tolerance"]),
                )
        except Exception as error:  # numpy and zipfile raise half a dozen types on damaged files
            raise BundleError(f"{path} holds no golden samples; export the run again") from error
