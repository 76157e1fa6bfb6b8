"""How far an image is from those that a model was trained on: the Mahalanobis distance of its FC2
features from the nearest class mean (Lee et al. 2018, arXiv:1807.03888), in ONNX nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models.bundle.bundle import DISTANCE_OUTPUT, FEATURES_OUTPUT

Array = NDArray[np.float64]

# Images whose distances are computed at once: their features in float64 are 8 MB.
_BLOCK = 256


@dataclass(frozen=True)
class FeatureStatistics:
    """Statistics of what FC2 makes of training images.

    means: float64[C,K] of each class. directions: float64[r,K], orthonormal. variances: float64[r]
    along them. rest: the variance along any other. limit: distances are divided by it.
    """

    means: Array
    directions: Array
    variances: Array
    rest: float
    limit: float = 1.0

    def distances(self, features: NDArray[np.floating]) -> Array:
        """float[N,K] -> float64[N], 1 is the limit.

        The difference of each image from each mean is never made: it would be [N,C,K]. Each is
        split into its part along the directions, r numbers, and the rest, of which products of
        matrices give the length. Memory: that of the means, and of a block's images.
        """
        centre = self.means.mean(axis=0)  # far from the origin, squares would lose their digits
        means = self._split(self.means - centre)
        blocks = (
            self._squares(self._split(features[start : start + _BLOCK] - centre), means)
            for start in range(0, len(features), _BLOCK)
        )
        squares = np.concatenate([np.empty(0), *blocks])
        distances: Array = np.sqrt(squares) / self.limit
        return distances

    def _split(self, vectors: Array) -> tuple[Array, Array]:
        """float64[N,K] -> float64[N,r], what it is along the directions, in standard deviations;
        float64[N,K], what it is across them, likewise."""
        along = vectors @ self.directions.T
        across = vectors - along @ self.directions
        return along / np.sqrt(self.variances), across / np.sqrt(self.rest)

    @staticmethod
    def _squares(images: tuple[Array, Array], means: tuple[Array, Array]) -> Array:
        """float64[N]: the squared distance of the nearest mean, of what `_split` gives."""
        squares = np.zeros((len(images[0]), len(means[0])))
        for image, mean in zip(images, means, strict=True):
            lengths = (image**2).sum(axis=1)[:, None] + (mean**2).sum(axis=1)
            squares += np.maximum(lengths - 2 * image @ mean.T, 0)  # what is rounded below 0
        nearest: Array = squares.min(axis=1)
        return nearest

    def write(self, path: Path) -> None:
        np.savez(path, **asdict(self))

    @classmethod
    def read(cls, path: Path) -> FeatureStatistics:
        with np.load(path, allow_pickle=False) as arrays:
            return cls(
                arrays["means"],
                arrays["directions"],
                arrays["variances"],
                float(arrays["rest"]),
                float(arrays["limit"]),
            )


def write_distance_graph(statistics: FeatureStatistics, path: Path) -> None:
    """The graph float32[N,K] features -> float32[N] distances.

    Everything is relative to the mean of the means, and across the directions by subtracting the
    part along them: in float32, differences of large squares would have no digits left.
    """
    centre = statistics.means.mean(axis=0)
    means = statistics.means - centre
    along = means @ statistics.directions.T
    across = means - along @ statistics.directions
    width = statistics.means.shape[1]
    constants = {
        "centre": centre,
        "directions": statistics.directions,
        "columns": statistics.directions.T,
        "means_along": along[None],
        "variances": statistics.variances,
        "means_across": 2 * across.T,
        "squares_across": (across**2).sum(axis=1),
        "rest": np.array(statistics.rest),
        "limit": np.array(statistics.limit),
    }
    axes = {"one": [1], "two": [2]}
    steps: Sequence[tuple[str, list[str], str, dict[str, int]]] = (
        ("Sub", [FEATURES_OUTPUT, "centre"], "x", {}),
        ("MatMul", ["x", "columns"], "along", {}),
        ("MatMul", ["along", "directions"], "part", {}),
        ("Sub", ["x", "part"], "across", {}),
        ("Mul", ["across", "across"], "x2", {}),
        ("ReduceSum", ["x2", "one"], "length2", {"keepdims": 1}),
        ("MatMul", ["across", "means_across"], "product2", {}),
        ("Sub", ["length2", "product2"], "difference", {}),
        ("Add", ["difference", "squares_across"], "across2", {}),
        ("Relu", ["across2"], "positive2", {}),  # what is rounded below 0
        ("Div", ["positive2", "rest"], "across_scaled", {}),
        ("Unsqueeze", ["along", "one"], "along_each", {}),
        ("Sub", ["along_each", "means_along"], "from_means", {}),
        ("Mul", ["from_means", "from_means"], "from_means2", {}),
        ("Div", ["from_means2", "variances"], "along_scaled", {}),
        ("ReduceSum", ["along_scaled", "two"], "along2", {"keepdims": 0}),
        ("Add", ["along2", "across_scaled"], "each2", {}),
        ("ReduceMin", ["each2", "one"], "nearest2", {"keepdims": 0}),
        ("Sqrt", ["nearest2"], "nearest", {}),
        ("Div", ["nearest", "limit"], DISTANCE_OUTPUT, {}),
    )
    graph = helper.make_graph(
        [helper.make_node(kind, i, [o], **attributes) for kind, i, o, attributes in steps],
        "distance",
        [helper.make_tensor_value_info(FEATURES_OUTPUT, TensorProto.FLOAT, ["N", width])],
        [helper.make_tensor_value_info(DISTANCE_OUTPUT, TensorProto.FLOAT, ["N"])],
        [
            *(numpy_helper.from_array(v.astype(np.float32), name) for name, v in constants.items()),
            *(numpy_helper.from_array(np.array(v, np.int64), name) for name, v in axes.items()),
        ],
    )
    # Of opset 20, as models.export.onnx_export has it.
    opsets = [helper.make_opsetid("", 20)]
    onnx.save_model(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
