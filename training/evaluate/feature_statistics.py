"""Means and covariance of the FC2 features of training images, for `models.export.distance_graph`.

The covariance, shared by all classes, of 4,096 features can't be had from some hundred images, and
would be 67 MB. So it is that of probabilistic PCA (Tipping & Bishop 1999): its leading directions
as they are, and one variance, the mean of the others', in all directions besides.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from models.export.distance_graph import FeatureStatistics

# Directions that are kept as they are: 1 MB of the graph.
MAX_DIRECTIONS = 64
# Of the validation images, so many are within the limit.
WITHIN_LIMIT = 0.99

# Below this share of the mean variance, directions count as without any.
_LEAST_VARIANCE = 1e-6
# Images whose features are in float64 at once: 32 MB of FC2's.
_BLOCK = 1024


def fit(
    features: NDArray[np.floating], targets: NDArray[np.int64], classes: int
) -> FeatureStatistics:
    """Means and covariance of training images; the limit is still to be set.

    Takes memory for the means, a block of images and one square matrix of N or K a side, whichever
    is fewer, and never for all images in float64.

    Args:
        features: float[N,K] of FC2, N >= 1. targets: int64[N]; each class at least once.
    """
    means = _means(features, targets, classes)
    width = features.shape[1]
    freedom = max(1, len(features) - classes)
    total, variances, directions = _leading(features, targets, means)
    total, variances = total / freedom, variances / freedom
    if total == 0:  # an image of each class: all directions are alike
        return FeatureStatistics(means, directions[:0], variances[:0], rest=1.0)
    least = _LEAST_VARIANCE * total / width
    count = min(MAX_DIRECTIONS, width - 1, int((variances > least).sum()))
    rest = max((total - float(variances[:count].sum())) / (width - count), least)
    # No kept direction varies less than the rest.
    return FeatureStatistics(means, directions[:count], np.maximum(variances[:count], rest), rest)


def _means(
    features: NDArray[np.floating], targets: NDArray[np.int64], classes: int
) -> NDArray[np.float64]:
    """float64[C,K]"""
    sums = np.zeros((classes, features.shape[1]))
    for rows in _blocks(len(features)):
        np.add.at(sums, targets[rows], features[rows])
    counts = np.bincount(targets, minlength=classes)
    means: NDArray[np.float64] = sums / counts[:, None]
    return means


def _leading(
    features: NDArray[np.floating], targets: NDArray[np.int64], means: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """Of what images differ by from their means: the sum of all squares, and the leading principal
    directions, float64[r,K], orthonormal, with the sum of squares along each, float64[r].

    The decomposition is that of the smaller of the two matrices that have the same values, N x N
    for few images and K x K for many, so it is small however many images there are.
    """

    def spread(rows: slice) -> NDArray[np.float64]:
        return features[rows].astype(np.float64) - means[targets[rows]]

    count, width = features.shape
    if count > width:
        scatter = np.zeros((width, width))
        for rows in _blocks(count):
            block = spread(rows)
            scatter += block.T @ block
        squares, vectors = _largest(scatter)
        return float(np.trace(scatter)), squares, vectors.T
    differences = spread(slice(None))
    products = differences @ differences.T
    squares, vectors = _largest(products)
    # Right singular vectors from left ones; QR makes up for the digits that small ones lost.
    directions = np.linalg.qr(differences.T @ vectors)[0].T
    return float(np.trace(products)), squares, directions


def _largest(matrix: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The largest eigenvalues of a symmetric float64[n,n], descending, and their vectors as
    columns; as many as can be kept at most."""
    size = len(matrix)
    first = max(0, size - MAX_DIRECTIONS)
    values, vectors = linalg.eigh(matrix, subset_by_index=(first, size - 1))
    return np.maximum(values[::-1], 0), vectors[:, ::-1]


def _blocks(count: int) -> Iterator[slice]:
    return (slice(start, start + _BLOCK) for start in range(0, count, _BLOCK))


def with_limit(statistics: FeatureStatistics, features: NDArray[np.floating]) -> FeatureStatistics:
    """The same, with the limit at the distance that `WITHIN_LIMIT` of these images keep.

    Args:
        features: float[N,K] of images that were not trained on: those that were are nearer.
    """
    limit = float(np.quantile(statistics.distances(features), WITHIN_LIMIT))
    tiny = float(np.finfo(np.float32).tiny)
    return replace(statistics, limit=statistics.limit * max(limit, tiny))
