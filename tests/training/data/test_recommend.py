from __future__ import annotations

import pytest

from training.data.recommend import recommendations


@pytest.mark.parametrize(("images", "cropped"), [(670, 0), (100, 5), (1, 0), (0, 0)])
def test_a_few_cropped_images_are_no_reason(images: int, cropped: int) -> None:
    assert list(recommendations(images, cropped, imbalance=1.0)) == []


@pytest.mark.parametrize(("images", "cropped"), [(670, 152), (100, 6), (1, 1)])
def test_more_than_one_in_twenty_is(images: int, cropped: int) -> None:
    (sentence,) = recommendations(images, cropped, imbalance=1.0)
    assert sentence.startswith(f"{cropped} of {images} images lose more than half")
    assert "--resize squash" in sentence
    assert "--resize pad" in sentence


def test_uneven_classes() -> None:
    assert list(recommendations(10, 0, imbalance=3.0)) == []
    (sentence,) = recommendations(10, 0, imbalance=3.1)
    assert "has 3.1 times the images of the smallest" in sentence
    assert "--class-weights balanced" in sentence
