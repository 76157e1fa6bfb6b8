from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from models.imaging import resampling
from models.imaging.geometry import to_square
from models.imaging.image import load_image
from models.imaging.preprocessing import Preprocessing
from models.imaging.resampling import Box, resample
from tests.models.imaging.test_image import png


@pytest.fixture
def by_pillow(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Until undone, as if cykooz_resizer weren't installed."""
    monkeypatch.setattr(resampling, "simd", None)
    return monkeypatch


def noise(size: tuple[int, int], seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(values)


def levels(image: Image.Image | NDArray[np.uint8]) -> NDArray[np.int64]:
    return np.asarray(image).astype(np.int64)


@pytest.mark.skipif(resampling.simd is None, reason="cykooz_resizer has no wheel here")
class TestBothAreTheSame:
    @pytest.mark.parametrize(
        ("size", "box"),
        [
            ((224, 356), (75.0, 22, 425.0, 378)),
            ((224, 356), (74.3, 22, 425.9, 378)),
            ((9, 400), (0.0, 0, 500.0, 400)),
            ((500, 31), (0.0, 3.7, 500.0, 399.2)),
            ((1200, 400), (10.5, 0, 20.25, 400)),  # larger
            ((500, 400), (0.0, 0, 500.0, 400)),
        ],
    )
    def test_up_to_one_level_of_few_values(
        self, by_pillow: pytest.MonkeyPatch, size: tuple[int, int], box: Box
    ) -> None:
        expected = levels(resample(noise((500, 400)), size, box))
        by_pillow.undo()

        difference = levels(resample(noise((500, 400)), size, box)) - expected

        assert np.abs(difference).max() <= 1
        assert (difference != 0).mean() <= 0.01
        assert abs(difference.mean()) <= 0.005  # to neither side

    @pytest.mark.parametrize(
        "size",
        [(500, 400), (640, 427), (61, 488), (1, 1), (1, 3000), (3000, 1), (2, 20_000), (7, 5)],
    )
    def test_whole_images(
        self, by_pillow: pytest.MonkeyPatch, photos: list[Image.Image], size: tuple[int, int]
    ) -> None:
        image = photos[0].resize(size, Image.Resampling.LANCZOS)
        expected = levels(to_square(image, Preprocessing(), size))
        by_pillow.undo()

        difference = levels(to_square(image, Preprocessing(), size)) - expected

        assert np.abs(difference).max() <= 1
        assert (difference != 0).mean() <= 0.01

    def test_an_image_in_several_blocks_of_memory(self, by_pillow: pytest.MonkeyPatch) -> None:
        image = noise((3000, 2500))  # Pillow's blocks are 16 MB
        expected = levels(load_image(png(image), Preprocessing()))
        by_pillow.undo()

        difference = levels(load_image(png(image), Preprocessing())) - expected

        assert np.abs(difference).max() <= 1

    def test_edges_that_floating_point_puts_outside(self) -> None:
        for width in range(1, 400):
            image = Image.new("RGB", (width, 1), (9, 8, 7))
            for part in (3, 7, 10, 49):
                start = width / part
                result = resample(image, (5, 1), (start, 0, width, 1))
                assert levels(result).tolist() == [[[9, 8, 7]] * 5]


def test_without_the_library_pillow_does_it(by_pillow: pytest.MonkeyPatch) -> None:
    assert resampling.simd is None
    image = Image.new("RGB", (4, 2))
    image.putpixel((1, 1), (200, 100, 0))
    result = resample(image, (2, 1), (0, 1, 4, 2))
    # Of the triangle, cut at the edge, pixels 0 to 2 weigh 3/7, 3/7 and 1/7: 200 * 3/7 = 85.7.
    assert levels(result)[0, 0].tolist() == [86, 43, 0]
