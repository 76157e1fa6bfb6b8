from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from models.export.distance_graph import FeatureStatistics, write_distance_graph
from serving.engine.graph_check import check_graph
from training.evaluate.feature_statistics import fit, with_limit


def samples(
    count: int, width: int = 30, classes: int = 3, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Non-negative, as after a ReLU, with a mean for each class and correlated noise."""
    means = np.random.default_rng(99).uniform(0, 20, (classes, width))
    mixing = np.random.default_rng(98).normal(0, 1, (5, width))
    rng = np.random.default_rng(seed)
    targets = np.arange(count) % classes
    noise = rng.normal(0, 2, (count, 5)) @ mixing + rng.normal(0, 0.3, (count, width))
    return np.maximum(means[targets] + noise, 0).astype(np.float32), targets


def dense_distances(
    statistics: FeatureStatistics, features: NDArray[np.float32]
) -> NDArray[np.float64]:
    """With the whole covariance matrix, inverted."""
    width = features.shape[1]
    outside = np.eye(width) - statistics.directions.T @ statistics.directions
    covariance = (
        statistics.directions.T @ np.diag(statistics.variances) @ statistics.directions
        + statistics.rest * outside
    )
    inverse = np.linalg.inv(covariance)
    differences = features[:, None, :].astype(np.float64) - statistics.means[None]
    squares = np.einsum("nck,kl,ncl->nc", differences, inverse, differences)
    result: NDArray[np.float64] = np.sqrt(squares.min(axis=1)) / statistics.limit
    return result


def graphs_distances(
    statistics: FeatureStatistics, features: NDArray[np.float32], path: Path
) -> NDArray[np.float32]:
    write_distance_graph(statistics, path)
    check_graph(path)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    (distances,) = session.run(["distance"], {"features": features})
    return distances  # type: ignore[no-any-return]


@pytest.mark.parametrize(("count", "width"), [(300, 30), (40, 200), (300, 200)])
def test_numpy_and_graph_equal_the_dense_mahalanobis(
    count: int, width: int, tmp_path: Path
) -> None:
    features, targets = samples(count, width)
    statistics = with_limit(fit(features, targets, 3), samples(100, width, seed=1)[0])
    others = np.concatenate([samples(20, width, seed=2)[0], samples(20, width, seed=3)[0][::-1]])
    others[:10] *= 3
    expected = dense_distances(statistics, others)
    np.testing.assert_allclose(statistics.distances(others), expected, rtol=1e-6)
    actual = graphs_distances(statistics, others, tmp_path / "distance.onnx")
    assert actual.shape == (40,)
    np.testing.assert_allclose(actual, expected, rtol=1e-3)


def test_far_along_a_direction_that_varies_much_is_near(tmp_path: Path) -> None:
    """In float32: differences of large squares would leave no digits of it."""
    features, targets = samples(300)
    statistics = fit(features, targets, 3)
    along = statistics.means[:1] + 5 * np.sqrt(statistics.variances[0]) * statistics.directions[:1]
    across = statistics.means[:1] + 5 * np.sqrt(statistics.rest) * random_direction(statistics)
    distances = graphs_distances(
        statistics, np.concatenate([along, across]).astype(np.float32), tmp_path / "d.onnx"
    )
    np.testing.assert_allclose(distances, [5, 5], rtol=1e-3)


def random_direction(statistics: FeatureStatistics) -> NDArray[np.float64]:
    """Of length 1, at right angles to those that are kept."""
    vector: NDArray[np.float64] = np.random.default_rng(0).normal(size=(len(statistics.means[0]),))
    vector -= statistics.directions.T @ (statistics.directions @ vector)
    result: NDArray[np.float64] = vector[None] / np.linalg.norm(vector)
    return result


@pytest.mark.parametrize("count", [3, 4, 5])
def test_hardly_an_image_of_each_class(count: int, tmp_path: Path) -> None:
    features, targets = samples(count)
    statistics = with_limit(fit(features, targets, 3), samples(10, seed=1)[0])
    distances = graphs_distances(statistics, samples(10, seed=2)[0], tmp_path / "d.onnx")
    assert np.isfinite(distances).all()
    assert (distances >= 0).all()


def test_features_that_are_all_the_same(tmp_path: Path) -> None:
    features = np.ones((6, 8), np.float32)
    statistics = with_limit(fit(features, np.arange(6) % 3, 3), features)
    assert np.isfinite(graphs_distances(statistics, features, tmp_path / "d.onnx")).all()


def test_written_and_read(tmp_path: Path) -> None:
    features, targets = samples(60)
    statistics = with_limit(fit(features, targets, 3), features)
    statistics.write(tmp_path / "familiar.npz")
    again = FeatureStatistics.read(tmp_path / "familiar.npz")
    np.testing.assert_array_equal(again.distances(features), statistics.distances(features))
