from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.imaging.image import decode_image
from models.imaging.preprocessing import Preprocessing
from models.monitoring.features import NAMES, ImageMeasures, Layout, features_of, measured
from testing.images import encode

LABELS = ("cat", "dog", "owl")
LAYOUT = Layout.of(LABELS)


def bin_name(name: str, value: float) -> int:
    feature = features_of(LABELS)[NAMES.index(name)]
    return int(feature.bin_of(np.array([value]))[0])


def test_names_and_order() -> None:
    assert tuple(feature.name for feature in LAYOUT.features) == NAMES
    assert LAYOUT.size == LAYOUT.slices[-1].stop
    for feature in LAYOUT.features:
        assert list(feature.edges) == sorted(set(feature.edges))
        assert feature.is_ordinal == (not feature.categories)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("confidence", 0.99, 0.995),
        ("confidence", 0.3, 0.4),
        ("distance", 0.95, 1.1),
        ("brightness", 100, 105),
        ("contrast", 40, 43),
        ("aspect_ratio", 4 / 3, 3 / 2),
        ("aspect_ratio", 1, 1.05),
        ("size", 0.2, 0.3),
        ("quantization", 11.3, 17.2),  # 90 and 85
    ],
)
def test_what_differs_is_in_different_bins(name: str, low: float, high: float) -> None:
    assert bin_name(name, low) < bin_name(name, high)


def test_every_value_has_a_bin() -> None:
    for feature in LAYOUT.features:
        if feature.is_ordinal:
            found = feature.bin_of(np.array([0.0, 1.0, np.inf, np.nan, feature.edges[0]]))
            assert found[0] == 0
            assert found[2] == feature.bins - 1
            assert found[3] == -1
            assert found[4] == 1  # an edge belongs to the bin above
    assert bin_name("confidence", float(np.float32(1.0))) == features_of(LABELS)[0].bins - 1


def test_counts_are_those_of_each_feature() -> None:
    image = ImageMeasures(100.0, 50.0, 1.5, 0.2, 1, 11.3)
    pixels = ImageMeasures(10.0, 5.0)
    rows = np.array(
        [
            measured(image, 0.9, 0.5, 2, accepted=True),
            measured(image, 0.8, None, 0, accepted=False),
            measured(pixels, 0.8, None, 2, accepted=True),
        ]
    )
    counts = LAYOUT.count(rows)
    sums = [int(counts[part].sum()) for part in LAYOUT.slices]
    assert dict(zip(NAMES, sums, strict=True)) == {
        "confidence": 3, "distance": 1, "label": 3, "accepted": 3, "brightness": 3,
        "contrast": 3, "aspect_ratio": 2, "size": 2, "format": 2, "quantization": 2,
    }  # fmt: skip
    assert counts[LAYOUT.slices[2]].tolist() == [1, 0, 2]
    assert counts[LAYOUT.slices[3]].tolist() == [1, 2]


def test_an_image_is_measured() -> None:
    half = np.zeros((60, 90, 3), np.uint8)
    half[:, 45:] = 200
    decoded = decode_image(encode(half), Preprocessing(image_size=32, resize="squash"))
    measures = ImageMeasures.of(decoded)
    assert measures.brightness == pytest.approx(100, abs=2)
    assert measures.contrast == pytest.approx(100, abs=2)
    assert measures.aspect_ratio == 1.5
    assert measures.megapixels == pytest.approx(0.0054)
    assert features_of(LABELS)[NAMES.index("format")].categories[int(measures.format)] == "PNG"
    assert np.isnan(measures.quantization)
    of_pixels = ImageMeasures.of_pixels(decoded.pixels)
    assert (of_pixels.brightness, of_pixels.contrast) == (measures.brightness, measures.contrast)
    assert np.isnan(of_pixels.format)


def test_brightness_and_contrast_are_nearly_those_of_all_pixels(photos: list[Image.Image]) -> None:
    for photo in photos:
        pixels = np.asarray(photo.resize((224, 224)))
        measures = ImageMeasures.of_pixels(pixels)
        assert measures.brightness == pytest.approx(pixels.mean(), abs=3)
        assert measures.contrast == pytest.approx(pixels.std(), abs=3)


def test_the_size_is_that_of_the_upright_file(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    path = tmp_path / "side.jpg"
    Image.new("RGB", (1200, 900)).save(path, exif=exif)
    decoded = decode_image(path, Preprocessing(image_size=32))
    assert (decoded.width, decoded.height, decoded.format) == (900, 1200, "JPEG")
    assert ImageMeasures.of(decoded).aspect_ratio == 0.75


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(("quality", "steps"), [(100, 1), (90, 11.5), (50, 57.6), (30, 96.0)])
def test_the_quality_of_a_jpeg(tmp_path: Path, mode: str, quality: int, steps: float) -> None:
    """libjpeg's tables: ITU-T T.81, K.1, times 5000 / quality or 200 - 2 quality percent."""
    path = tmp_path / "a.jpg"
    Image.new(mode, (40, 30)).save(path, quality=quality)
    decoded = decode_image(path, Preprocessing(image_size=32))
    assert ImageMeasures.of(decoded).quantization == pytest.approx(steps, rel=0.02)
