"""Means and covariance of the FC2 features of training images, for `models.export.distance_graph`.

The covariance, shared by all classes, of 4,096 features can't be had from some hundred images, and
would be 67 MB. So it is that of probabilistic PCA (Tipping & Bishop 1999): its leading directions
as they are, and one variance, the mean of the others', in all directions besides.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from models.export.distance_graph import FeatureStatistics

# Directions that are kept as they are: 1 MB of the graph.
MAX_DIRECTIONS = 64
# Of the validation images, so many are within the limit.
WITHIN_LIMIT = 0.99

# Below this share of the mean variance, directions count as without any.
_LEAST_VARIANCE = 1e-6


def fit(
    features: NDArray[np.floating], targets: NDArray[np.int64], classes: int
) -> FeatureStatistics:
    """Means and covariance of training images; the limit is still to be set.

    Args:
        features: float[N,K] of FC2, N >= 1. targets: int64[N]; each class at least once.
    """
    values = features.astype(np.float64)
    means = np.stack([values[targets == number].mean(axis=0) for number in range(classes)])
    spread = values - means[targets]
    width = values.shape[1]
    freedom = max(1, len(values) - classes)
    _, singular, directions = np.linalg.svd(spread, full_matrices=False)
    variances = singular**2 / freedom
    total = float(variances.sum())
    if total == 0:  # an image of each class: all directions are alike
        return FeatureStatistics(means, directions[:0], variances[:0], rest=1.0)
    least = _LEAST_VARIANCE * total / width
    count = min(MAX_DIRECTIONS, width - 1, int((variances > least).sum()))
    rest = max(float(variances[count:].sum()) / (width - count), least)
    # No kept direction varies less than the rest.
    return FeatureStatistics(means, directions[:count], np.maximum(variances[:count], rest), rest)


def with_limit(statistics: FeatureStatistics, features: NDArray[np.floating]) -> FeatureStatistics:
    """The same, with the limit at the distance that `WITHIN_LIMIT` of these images keep.

    Args:
        features: float[N,K] of images that were not trained on: those that were are nearer.
    """
    limit = float(np.quantile(statistics.distances(features), WITHIN_LIMIT))
    tiny = float(np.finfo(np.float32).tiny)
    return replace(statistics, limit=statistics.limit * max(limit, tiny))
