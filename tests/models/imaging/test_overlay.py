from __future__ import annotations

import numpy as np

from models.imaging.overlay import overlaid


def test_what_speaks_for_nothing_stays_as_it_is() -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert np.array_equal(overlaid(image, np.zeros((1, 1), np.float32)), image)


def test_colours_by_hand() -> None:
    grey = np.full((32, 32, 3), 100, np.uint8)
    most = overlaid(grey, np.ones((2, 2), np.float32))
    # 0.7 of the darkest violet, 0.3 of the grey.
    assert (most == np.round([0.7 * 84 + 30, 0.7 * 10 + 30, 0.7 * 92 + 30])).all()
    half = overlaid(grey, np.full((2, 2), 0.5, np.float32))
    opacity = 0.7 * 1.25 * 0.5
    expected = [opacity * value + (1 - opacity) * 100 for value in (227, 74, 51)]
    assert np.abs(half - np.array(expected)).max() <= 0.5


def test_a_corner_is_coloured_where_it_is() -> None:
    grey = np.full((64, 64, 3), 100, np.uint8)
    heat_map = np.zeros((4, 4), np.float32)
    heat_map[0, 3] = 1
    changed = (overlaid(grey, heat_map) != grey).any(axis=2)
    assert changed[0, 63]
    assert not changed[32:].any()
    assert not changed[:, :32].any()
