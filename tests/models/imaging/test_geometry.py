from __future__ import annotations

import io
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from models.imaging import geometry
from models.imaging.geometry import Size, kept_share, resized_size, to_square
from models.imaging.image import load_image, to_rgb
from models.imaging.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing, Resize
from models.imaging.resampling import Box, resample
from tests.models.imaging.test_image import (
    decoded_sizes,
    difference_to_the_full_decode,
    jpeg,
    png,
)

CROP, SQUASH, PAD = (Preprocessing(resize=rule) for rule in ("crop", "squash", "pad"))
GREY_BEIGE = (124, 116, 104)  # 255 times 0.485, 0.456, 0.406
SIZES = [
    *((500, 400), (400, 500), (224, 224), (61, 488), (900, 257), (97, 61), (1, 1)),
    *((1, 300), (300, 1), (1, 1000), (1000, 1), (10_000, 3), (3, 10_000), (223, 225)),
]


def small(resize: Resize) -> Preprocessing:
    return Preprocessing(image_size=32, resize=resize, resize_size=32)


def levels(pixels: Image.Image | NDArray[np.uint8]) -> NDArray[np.int64]:
    return np.asarray(pixels).astype(np.int64)


def by_pillow(image: Image.Image, size: Size) -> Image.Image:
    """Across first; Pillow itself takes the two sides in an order that depends on the sizes."""
    across = image.resize((size[0], image.height), Image.Resampling.BILINEAR)
    return across.resize(size, Image.Resampling.BILINEAR)


def squashed_by_pillow(image: Image.Image) -> Image.Image:
    if image.width < 224 < image.height:  # a strip goes down first
        down = image.resize((image.width, 224), Image.Resampling.BILINEAR)
        return down.resize((224, 224), Image.Resampling.BILINEAR)
    return by_pillow(image, (224, 224))


def padded_by_pillow(image: Image.Image) -> Image.Image:
    width, height = (max(1, round(224 * length / max(image.size))) for length in image.size)
    square = Image.new("RGB", (224, 224), GREY_BEIGE)
    square.paste(by_pillow(image, (width, height)), ((224 - width) // 2, (224 - height) // 2))
    return square


class TestAsPillow:
    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize("resize", ["squash", "pad"])
    def test_but_for_one_level(
        self, photos: list[Image.Image], size: Size, resize: Literal["squash", "pad"]
    ) -> None:
        image = photos[0].resize(size, Image.Resampling.LANCZOS)
        reference = squashed_by_pillow if resize == "squash" else padded_by_pillow

        difference = levels(load_image(png(image), Preprocessing(resize=resize))) - levels(
            reference(image)
        )

        assert np.abs(difference).max() <= 1
        assert np.abs(difference).mean() <= 0.01

    @pytest.mark.parametrize("size", [(500, 400), (61, 488), (300, 1)])
    def test_to_the_bit_where_pillow_resamples(
        self, monkeypatch: pytest.MonkeyPatch, photos: list[Image.Image], size: Size
    ) -> None:
        monkeypatch.setattr("models.imaging.resampling.simd", None)
        image = photos[1].resize(size, Image.Resampling.LANCZOS)
        assert (to_square(image, PAD, size) == levels(padded_by_pillow(image))).all()
        assert (to_square(image, SQUASH, size) == levels(squashed_by_pillow(image))).all()


class TestPad:
    @pytest.mark.parametrize(
        ("size", "box"),
        [
            # left, top, right, bottom of the image in 32 x 32
            ((64, 32), (0, 8, 32, 24)),
            ((32, 64), (8, 0, 24, 32)),
            ((32, 32), (0, 0, 32, 32)),
            ((8, 8), (0, 0, 32, 32)),  # smaller ones are enlarged
            ((64, 30), (0, 8, 32, 23)),  # of 17 rows left, 8 above and 9 below
            ((30, 64), (8, 0, 23, 32)),
            ((1000, 1), (0, 15, 32, 16)),  # 0.03 rows are one
            ((1, 1000), (15, 0, 16, 32)),
        ],
    )
    def test_the_image_is_in_the_middle_and_the_mean_around_it(
        self, size: Size, box: tuple[int, int, int, int]
    ) -> None:
        pixels = to_square(Image.new("RGB", size, (1, 2, 3)), small("pad"), size)
        left, top, right, bottom = box
        is_image = (pixels == (1, 2, 3)).all(axis=2)
        assert is_image[top:bottom, left:right].all()
        assert is_image.sum() == (right - left) * (bottom - top)
        assert (pixels[~is_image] == GREY_BEIGE).all()

    def test_the_padding_is_nothing_to_the_network(self) -> None:
        pixels = to_square(Image.new("RGB", (64, 32)), small("pad"), (64, 32))
        normalised = (pixels[0, 0] / 255 - IMAGENET_MEAN) / IMAGENET_STD
        assert np.abs(normalised).max() <= 0.5 / 255 / min(IMAGENET_STD)

    def test_it_is_the_mean_of_the_spec(self) -> None:
        rule = Preprocessing(image_size=32, resize="pad", mean=(0.0, 0.5, 1.0))
        pixels = to_square(Image.new("RGB", (64, 32), (9, 9, 9)), rule, (64, 32))
        assert pixels[0, 0].tolist() == [0, 128, 255]


class TestSquash:
    def test_every_corner_is_seen(self) -> None:
        """Quarters of four colours stay quarters, whatever the shape."""
        colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0)]
        image = Image.new("RGB", (400, 60))
        for place, colour in enumerate(colours):
            image.paste(colour, (200 * (place % 2), 30 * (place // 2), 400, 60))
        image.paste(colours[2], (0, 30, 200, 60))
        pixels = to_square(image, small("squash"), image.size)
        assert pixels[0, 0].tolist() == list(colours[0])
        assert pixels[0, 31].tolist() == list(colours[1])
        assert pixels[31, 0].tolist() == list(colours[2])
        assert pixels[31, 31].tolist() == list(colours[3])
        assert pixels[14, 14].tolist() == list(colours[0])
        assert pixels[17, 17].tolist() == list(colours[3])

    @pytest.mark.parametrize("size", [(1, 30_000), (30_000, 1), (2, 20_000), (300, 9000)])
    def test_what_lies_between_the_passes_is_small(
        self, monkeypatch: pytest.MonkeyPatch, size: Size
    ) -> None:
        """Across first, a strip of 1 x 30,000 would be 224 x 30,000 between."""
        between: list[Size] = []

        def spy(image: Image.Image, size: Size, box: Box) -> Image.Image:
            between.append(size)
            return resample(image, size, box)

        monkeypatch.setattr(geometry, "resample", spy)
        to_square(Image.new("RGB", size), SQUASH, size)
        assert max(width * height for width, height in between) <= max(size[0] * size[1], 224 * 224)


class TestLongSides:
    @pytest.mark.parametrize("resize", ["squash", "pad"])
    @pytest.mark.parametrize("size", [(1003, 3), (3, 1003), (1000, 900)])
    def test_are_averaged_before(
        self,
        monkeypatch: pytest.MonkeyPatch,
        photos: list[Image.Image],
        resize: Resize,
        size: Size,
    ) -> None:
        image = photos[0].resize(size, Image.Resampling.LANCZOS)
        expected = levels(to_square(image, small(resize), size))
        monkeypatch.setattr(geometry, "_LONGEST_SIDE", 200)
        difference = levels(to_square(image, small(resize), size)) - expected
        assert 0 < np.abs(difference).mean() <= 2

    def test_a_ramp_stays_in_its_place(self) -> None:
        """Its last average of 4 has 1 pixel: taken for a whole one, the ramp would move."""
        ramp = np.linspace(0, 255, 4 * 32_768 - 3).round().astype(np.uint8)
        image = Image.fromarray(np.repeat(ramp[None, :, None], 3, axis=2))
        pixels = to_square(image, small("squash"), image.size)
        middles = (np.arange(32) + 0.5) / 32 * 255
        assert np.abs(pixels[5, 1:-1, 0] - middles[1:-1]).max() <= 1


class TestReducedDecode:
    @pytest.mark.parametrize("resize", ["squash", "pad"])
    @pytest.mark.parametrize("size", [(4000, 3000), (3001, 4003), (3000, 600)])
    def test_large_photographs_keep_their_detail(
        self, photos: list[Image.Image], resize: Resize, size: Size
    ) -> None:
        """Pad may decode an eighth where crop decodes a quarter; twice the length is the rule."""
        data = jpeg(photos[0].resize(size, Image.Resampling.BICUBIC))
        assert difference_to_the_full_decode(data, Preprocessing(resize=resize)) <= 2.1

    @pytest.mark.parametrize(
        ("rule", "size", "decoded"),
        [
            (SQUASH, (4000, 3000), (1000, 750)),  # 1/4: 750 is the least from 2 * 224 on
            (SQUASH, (4000, 800), (4000, 800)),  # a half of 800 would be less
            (PAD, (4000, 3000), (500, 375)),  # 1/8: 500 is the least from 2 * 224 on
            (PAD, (4000, 800), (500, 100)),  # what 800 is to become is a fifth of 224
            (PAD, (800, 4000), (100, 500)),
        ],
    )
    def test_only_what_the_resize_needs_is_decoded(
        self, rule: Preprocessing, size: Size, decoded: Size
    ) -> None:
        assert decoded_sizes(jpeg(Image.new("RGB", size)), rule) == [decoded]


@pytest.mark.parametrize("resize", ["squash", "pad"])
@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_images(
    photos: list[Image.Image], resize: Resize, image_format: str, orientation: int
) -> None:
    """As the same image that was stored upright."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = photos[0].resize((120, 50), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    stored.save(buffer, image_format, exif=exif, quality=100)
    with Image.open(io.BytesIO(buffer.getvalue())) as image:
        upright = to_rgb(image.copy())
        expected = to_square(upright, small(resize), upright.size)
    assert upright.size == ((50, 120) if orientation >= 5 else (120, 50))
    assert (load_image(buffer.getvalue(), small(resize)) == expected).all()


@settings(max_examples=200, deadline=None)
@given(
    width=st.integers(1, 2000),
    height=st.integers(1, 2000),
    side=st.integers(32, 80),
    resize=st.sampled_from(["crop", "squash", "pad"]),
    colour=st.tuples(*[st.integers(0, 255)] * 3),
)
def test_one_colour_stays_that_colour(
    width: int, height: int, side: int, resize: Resize, colour: tuple[int, int, int]
) -> None:
    rule = Preprocessing(image_size=side, resize=resize, resize_size=side)
    pixels = to_square(Image.new("RGB", (width, height), colour), rule, (width, height))
    assert pixels.shape == (side, side, 3)
    columns, rows = resized_size((width, height), rule)
    left, top = max(0, (side - columns) // 2), max(0, (side - rows) // 2)
    inside = levels(pixels)[top : top + rows, left : left + columns]
    assert np.abs(inside - colour).max() <= 1


@settings(max_examples=50, deadline=None)
@given(
    width=st.integers(1, 300), height=st.integers(1, 300), resize=st.sampled_from(["squash", "pad"])
)
def test_a_mirrored_image_gives_the_mirrored_square(
    width: int, height: int, resize: Resize
) -> None:
    """But for the odd column of padding, which is always the right one's."""
    noise = np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)
    mirrored = levels(to_square(Image.fromarray(noise[:, ::-1]), small(resize), (width, height)))
    columns, _ = resized_size((width, height), small(resize))
    shift = (32 - columns) % 2
    expected = levels(to_square(Image.fromarray(noise), small(resize), (width, height)))[:, ::-1]
    assert np.abs(np.roll(mirrored, shift, axis=1) - expected).max() <= 1


class TestKeptShare:
    @pytest.mark.parametrize(
        ("size", "share"),
        [
            ((256, 256), 0.765625),  # 224 of 256, twice
            ((512, 256), 0.3828125),
            ((256, 512), 0.3828125),
            ((4000, 3000), 224**2 / (256 * 341)),
            ((3000, 2000), 224**2 / (256 * 384)),
            ((1000, 1), 224**2 / (256 * 256_000)),
        ],
    )
    def test_of_the_crop(self, size: Size, share: float) -> None:
        assert kept_share(size, CROP) == pytest.approx(share, rel=1e-12)

    def test_without_a_margin_a_square_is_seen_whole(self) -> None:
        assert kept_share((500, 500), small("crop")) == 1.0
        assert kept_share((1000, 500), small("crop")) == 0.5

    @pytest.mark.parametrize("rule", [SQUASH, PAD])
    def test_of_the_others_all(self, rule: Preprocessing) -> None:
        assert kept_share((1000, 1), rule) == 1.0
