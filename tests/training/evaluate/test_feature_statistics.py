from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from numpy.typing import NDArray

from models.export.distance_graph import FeatureStatistics
from tests.models.export.test_distance_graph import samples
from training.evaluate.feature_statistics import MAX_DIRECTIONS, fit, with_limit


def test_the_fit_by_hand() -> None:
    """Two classes, noise of variance 4 along the first axis and none elsewhere."""
    features = np.array([[-2, 0, 0], [2, 0, 0], [-2, 9, 0], [2, 9, 0]], np.float32)
    statistics = fit(features, np.array([0, 0, 1, 1]), 2)
    np.testing.assert_allclose(statistics.means, [[0, 0, 0], [0, 9, 0]])
    np.testing.assert_allclose(np.abs(statistics.directions), [[1, 0, 0]], atol=1e-12)
    np.testing.assert_allclose(statistics.variances, [16 / 2])  # 4 images less 2 means
    assert statistics.rest < 1e-4
    np.testing.assert_allclose(statistics.distances(np.array([[8**0.5, 9, 0]])), [1])


def test_the_limit_is_kept_by_99_of_100() -> None:
    features, targets = samples(300)
    val, _ = samples(1000, seed=1)
    statistics = with_limit(fit(features, targets, 3), val)
    assert (statistics.distances(val) > 1).mean() == pytest.approx(0.01, abs=0.001)


def test_only_so_many_directions() -> None:
    features, targets = samples(900, width=400)
    rng = np.random.default_rng(5)
    statistics = fit(features + rng.normal(0, 3, features.shape), targets, 3)
    assert statistics.directions.shape == (MAX_DIRECTIONS, 400)
    np.testing.assert_allclose(
        statistics.directions @ statistics.directions.T, np.eye(64), atol=1e-9
    )
    assert (statistics.variances >= statistics.rest).all()


def dense_fit(features: NDArray[np.float32], targets: NDArray[np.int64]) -> FeatureStatistics:
    """By the decomposition of all images' differences from their means at once."""
    classes, (count, width) = int(targets.max()) + 1, features.shape
    means = np.stack([features[targets == c].astype(float).mean(axis=0) for c in range(classes)])
    _, singular, directions = np.linalg.svd(features - means[targets], full_matrices=False)
    variances = singular**2 / (count - classes)
    kept = min(MAX_DIRECTIONS, width - 1, int((variances > 1e-6 * variances.sum() / width).sum()))
    rest = max(variances[kept:].sum() / (width - kept), 1e-6 * variances.sum() / width)
    return FeatureStatistics(
        means, directions[:kept], np.maximum(variances[:kept], rest), float(rest)
    )


def dense_distances(
    statistics: FeatureStatistics, features: NDArray[np.float32]
) -> NDArray[np.float64]:
    """By the difference of each image from each mean, [N,C,K]."""
    from_means = features[:, None, :] - statistics.means[None]
    along = from_means @ statistics.directions.T
    across = (from_means**2).sum(axis=2) - (along**2).sum(axis=2)
    squares = (along**2 / statistics.variances).sum(axis=2) + across / statistics.rest
    nearest: NDArray[np.float64] = np.sqrt(squares.min(axis=1))
    return nearest


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "width", "classes"),
    [(5, 30, 3), (60, 200, 3), (199, 200, 12), (200, 200, 12), (201, 200, 12), (900, 80, 40)],
)
def test_the_fit_equals_the_dense_one(count: int, width: int, classes: int) -> None:
    """Fewer images than features, as many, and more; fewer differences than directions, too."""
    features, targets = samples(count, width, classes)
    expected, actual = dense_fit(features, targets), fit(features, targets, classes)
    np.testing.assert_allclose(actual.means, expected.means, rtol=1e-12)
    np.testing.assert_allclose(actual.variances, expected.variances, rtol=1e-8)
    assert actual.rest == pytest.approx(expected.rest, rel=1e-6)
    kept = len(expected.directions)
    identity = actual.directions @ actual.directions.T
    np.testing.assert_allclose(identity, np.eye(kept), atol=1e-10)
    others, _ = samples(300, width, classes, seed=1)
    wanted = dense_distances(expected, others)
    np.testing.assert_allclose(actual.distances(others), wanted, rtol=1e-6)
    np.testing.assert_allclose(dense_distances(actual, others), wanted, rtol=1e-6)


def test_memory_does_not_grow_with_images_times_classes() -> None:
    """Of 2,400 images, 300 classes and 256 values, the differences from all means are 1.5 GB."""
    features, targets = samples(2400, 256, 300)
    tracemalloc.start()
    try:
        statistics = with_limit(fit(features, targets, 300), features)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert np.isfinite(statistics.limit)
    assert peak < 25e6
