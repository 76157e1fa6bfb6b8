from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from models.errors import ImageError, UnknownFormat
from models.imaging.image import FORMATS, load_image
from models.imaging.preprocessing import Preprocessing
from reliability.corpus import OTHERS, SERVED, Sample, mutated_images, samples

SMALL = Preprocessing(image_size=32, resize_size=32)
SAMPLES = list(samples())

# Pillow's, about damaged tags, and of encoders that drop something.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.mark.parametrize("sample", SAMPLES, ids=[sample.name for sample in SAMPLES])
def test_each_is_an_image_or_refused_as_it_must(sample: Sample) -> None:
    try:
        pixels = load_image(sample.data, SMALL, formats=SERVED)
    except ImageError:
        assert sample.expected in ("refused", "either")
        return
    assert sample.expected in ("image", "either")
    assert pixels.shape == (32, 32, 3)
    assert pixels.dtype == np.uint8


@pytest.mark.parametrize("sample", SAMPLES, ids=[sample.name for sample in SAMPLES])
def test_with_all_formats_open_they_do_no_harm_either(sample: Sample) -> None:
    try:
        assert load_image(sample.data, SMALL).shape == (32, 32, 3)
    except ImageError:
        assert sample.expected != "image"


def test_no_decoder_of_another_format_sees_them() -> None:
    """It would say "truncated or corrupt" of some, and open others."""
    for sample in SAMPLES:
        if sample.name.split()[0] in {*OTHERS, "PDF", "EPS", "ICO", "PPM", "TGA", "PSD", "SVG"}:
            with pytest.raises(UnknownFormat, match="JPEG, PNG, WEBP"):
                load_image(sample.data, SMALL, formats=SERVED)


def test_the_same_seed_gives_the_same_bytes() -> None:
    assert list(samples()) == SAMPLES
    assert list(mutated_images(50, seed=3)) == list(mutated_images(50, seed=3))
    assert list(mutated_images(50, seed=3)) != list(mutated_images(50, seed=4))


def test_every_kind_is_there() -> None:
    kinds = Counter(sample.expected for sample in SAMPLES)
    assert kinds["image"] > 80
    assert kinds["refused"] > 100
    first_words = {sample.name.split()[0] for sample in SAMPLES}
    assert set(FORMATS) <= first_words
    assert len({sample.name for sample in SAMPLES}) == len(SAMPLES)
