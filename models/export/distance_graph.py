"""How far an image is from those that a model was trained on: the Mahalanobis distance of its FC2
features from the nearest class mean (Lee et al. 2018, arXiv:1807.03888), and its ONNX graph."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.bundle.bundle import DISTANCE_OUTPUT, FEATURES_OUTPUT
from models.export.onnx_export import as_graph

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
    """The graph float32[N,K] features -> float32[N] distances."""
    example = torch.zeros(2, statistics.means.shape[1])
    graph = as_graph(DistanceModule(statistics), example, FEATURES_OUTPUT, DISTANCE_OUTPUT)
    onnx.save_model(graph, path)


class DistanceModule(nn.Module):
    """`FeatureStatistics.distances` in float32: what is exported.

    Everything is relative to the mean of the means, and across the directions by subtracting the
    part along them: differences of large squares would have no digits left.
    """

    def __init__(self, statistics: FeatureStatistics) -> None:
        super().__init__()
        centre = statistics.means.mean(axis=0)
        means = statistics.means - centre
        along = means @ statistics.directions.T
        across = means - along @ statistics.directions
        self.centre = _constant(centre)
        self.directions = _constant(statistics.directions)
        self.means_along, self.variances = _constant(along), _constant(statistics.variances)
        self.means_across = _constant(2 * across.T)
        self.squares_across = _constant((across**2).sum(axis=1))
        self.rest, self.limit = _constant(statistics.rest), _constant(statistics.limit)

    def forward(self, features: Tensor) -> Tensor:
        x = features - self.centre
        along = x @ self.directions.T
        across = x - along @ self.directions
        lengths = (across * across).sum(dim=1, keepdim=True)
        squares_across = (lengths - across @ self.means_across + self.squares_across).relu()
        differences = along[:, None] - self.means_along
        squares_along = (differences * differences / self.variances).sum(dim=2)
        nearest = (squares_along + squares_across / self.rest).amin(dim=1)
        distances: Tensor = nearest.sqrt() / self.limit
        return distances


def _constant(value: Array | float) -> nn.Buffer:
    # A copy: PyTorch refuses the negative strides that views of NumPy may have.
    return nn.Buffer(torch.from_numpy(np.array(value, np.float32, order="C")))
