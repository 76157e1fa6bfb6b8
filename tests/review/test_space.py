from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA

from review.space import make_space


@pytest.mark.parametrize(("images", "values"), [(40, 600), (600, 40), (5, 9)])
def test_the_directions_are_the_principal_ones(images: int, values: int) -> None:
    rng = np.random.default_rng(1)
    features = rng.normal(size=(images, values)) * np.geomspace(10, 0.1, values)
    space = make_space(features)
    exact = PCA(svd_solver="full").fit(features)
    count = len(space.directions)
    kept = np.square(space.coordinates, dtype=np.float64).sum()
    most = np.square(exact.singular_values_[:count]).sum()
    assert kept == pytest.approx(most, rel=1e-3)
    np.testing.assert_allclose(space.directions @ space.directions.T, np.eye(count), atol=1e-4)
    np.testing.assert_array_equal(make_space(features).coordinates, space.coordinates)
