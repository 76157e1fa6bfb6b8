from __future__ import annotations

import numpy as np
import pytest

from review.desk import NotNow
from review.pictures import explained

PIXELS = np.full((32, 32, 3), 100, np.uint8)


def test_a_map_is_laid_over_what_the_model_sees() -> None:
    values = np.array([[0, 1], [0, 0]], np.float32)
    shown = explained(PIXELS, values, "red")
    assert (shown[16:, :8] == 100).all()
    assert (shown[:4, -4:] != 100).any()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([[1]], "of 32 px, the network's last maps have one place, which can't say where 'red' is"),
        ([[0]], "one place"),
        ([[0, 0], [0, 0]], "no place in the image speaks for 'red'"),
    ],
)
def test_a_map_that_would_show_nothing_says_so(values: list[list[float]], words: str) -> None:
    with pytest.raises(NotNow, match=words):
        explained(PIXELS, np.array(values, np.float32), "red")
