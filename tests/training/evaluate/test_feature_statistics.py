from __future__ import annotations

import numpy as np
import pytest

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
