from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torchvision.models import VGG19_Weights
from torchvision.transforms._presets import ImageClassification

from models.errors import ImageError, UnknownFormat
from models.imaging.image import load_image, to_rgb
from models.imaging.preprocessing import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Preprocessing,
    default_resize_size,
)
from reliability import corpus

IMAGENET = Preprocessing()
SMALL = Preprocessing(image_size=32, resize_size=32)


def png(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def solid(mode: str, colour: object, size: tuple[int, int] = (40, 40)) -> Image.Image:
    return Image.new(mode, size, colour)  # type: ignore[arg-type]


def first_pixel(data: bytes) -> tuple[int, ...]:
    return tuple(load_image(data, SMALL)[0, 0].tolist())


class TestEqualsTorchvision:
    """The rule of `VGG19_Weights.IMAGENET1K_V1.transforms()`, on real photographs."""

    @pytest.mark.parametrize("photo", [0, 1])
    @pytest.mark.parametrize("size", [(500, 400), (400, 500), (256, 256), (61, 488), (256, 900)])
    def test_photographs_are_equal_by_pillow(
        self,
        monkeypatch: pytest.MonkeyPatch,
        photos: list[Image.Image],
        photo: int,
        size: tuple[int, int],
    ) -> None:
        monkeypatch.setattr("models.imaging.resampling.simd", None)
        image = photos[photo].resize(size, Image.Resampling.LANCZOS)
        expected = VGG19_Weights.IMAGENET1K_V1.transforms()(image).permute(1, 2, 0).numpy()

        actual = normalise(load_image(png(image), IMAGENET))

        assert np.abs(actual - expected).max() <= 1e-6  # no pixel differs: one level is 0.017

    @pytest.mark.parametrize(
        "size",
        [
            *((500, 400), (400, 500), (256, 256), (61, 488), (256, 900), (640, 427), (427, 640)),
            *((223, 301), (97, 61), (1023, 700), (2000, 41), (33, 1999)),
        ],
    )
    def test_photographs_are_equal_but_for_one_level(
        self, photos: list[Image.Image], size: tuple[int, int]
    ) -> None:
        image = photos[0].resize(size, Image.Resampling.LANCZOS)
        expected = VGG19_Weights.IMAGENET1K_V1.transforms()(image).permute(1, 2, 0).numpy()

        difference = (normalise(load_image(png(image), IMAGENET)) - expected) * IMAGENET_STD

        assert np.abs(difference).max() <= 1 / 255 + 1e-6
        assert np.abs(difference).mean() <= 0.01 / 255  # one value in 100

    @pytest.mark.parametrize("image_size", [32, 64, 331])
    def test_other_sizes_keep_the_ratio(self, photos: list[Image.Image], image_size: int) -> None:
        resize_size = default_resize_size(image_size)
        preset = ImageClassification(crop_size=image_size, resize_size=resize_size)
        rule = Preprocessing(image_size=image_size, resize_size=resize_size)

        actual = normalise(load_image(png(photos[0]), rule))

        expected = preset(photos[0]).permute(1, 2, 0).numpy()
        difference = (actual - expected) * IMAGENET_STD
        assert np.abs(difference).max() <= 1 / 255 + 1e-6
        assert np.abs(difference).mean() <= 0.005 / 255

    def test_the_constants_are_those_of_the_weights(self) -> None:
        preset = VGG19_Weights.IMAGENET1K_V1.transforms()
        assert tuple(preset.mean) == IMAGENET_MEAN
        assert tuple(preset.std) == IMAGENET_STD
        assert preset.crop_size == [IMAGENET.image_size]
        assert preset.resize_size == [IMAGENET.resize_size]
        assert preset.interpolation.value == IMAGENET.interpolation


def normalise(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    return (pixels / 255 - IMAGENET_MEAN) / IMAGENET_STD


def jpeg(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95, **options)
    return buffer.getvalue()


def difference_to_the_full_decode(data: bytes, rule: Preprocessing) -> float:
    """Mean absolute difference, in levels of 255, between a JPEG and its pixels as BMP."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(data)) as image:
        ImageOps.exif_transpose(image).convert("RGB").save(buffer, "BMP")
    full = load_image(buffer.getvalue(), rule)
    return float(np.abs(load_image(data, rule).astype(int) - full).mean())


def decoded_sizes(data: bytes, rule: Preprocessing) -> list[tuple[int, int]]:
    """Width and height of each image that `load_image` has decoded, before it is resized."""
    sizes = []

    def spy(image: Image.Image) -> Image.Image:
        sizes.append(image.size)
        return to_rgb(image)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("models.imaging.image.to_rgb", spy)
        load_image(data, rule)
    return sizes


class TestReducedDecode:
    @pytest.mark.parametrize("photo", [0, 1])
    @pytest.mark.parametrize("image_size", [32, 64])
    def test_photographs_are_within_two_levels(
        self, photos: list[Image.Image], photo: int, image_size: int
    ) -> None:
        rule = Preprocessing(image_size=image_size, resize_size=default_resize_size(image_size))
        wide = photos[photo]
        for image in (wide, wide.transpose(Image.Transpose.ROTATE_90), wide.crop((3, 5, 630, 412))):
            assert 0 < difference_to_the_full_decode(jpeg(image), rule) <= 2

    @pytest.mark.parametrize("size", [(4000, 3000), (3001, 4003), (1540, 1027)])
    def test_large_photographs_at_224(
        self, photos: list[Image.Image], size: tuple[int, int]
    ) -> None:
        data = jpeg(photos[0].resize(size, Image.Resampling.BICUBIC))
        assert difference_to_the_full_decode(data, IMAGENET) <= 2

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_turned_photographs(self, photos: list[Image.Image], orientation: int) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = jpeg(photos[1].resize((1301, 1042), Image.Resampling.LANCZOS), exif=exif)
        assert difference_to_the_full_decode(data, IMAGENET) <= 2

    @pytest.mark.parametrize(
        ("size", "decoded"),
        [
            ((4000, 3000), (1000, 750)),  # 1/4: 750 is the least that is not below 2 * 256
            ((4096, 4096), (512, 512)),  # 1/8
            ((1023, 2000), (1023, 2000)),  # half of it would be 511.5
            ((1024, 2000), (512, 1000)),
        ],
    )
    def test_only_what_the_resize_needs_is_decoded(
        self, size: tuple[int, int], decoded: tuple[int, int]
    ) -> None:
        assert decoded_sizes(jpeg(Image.new("RGB", size)), IMAGENET) == [decoded]

    def test_grey_and_cmyk(self, photos: list[Image.Image]) -> None:
        large = photos[0].resize((1600, 1067), Image.Resampling.LANCZOS)
        for mode in ("L", "CMYK"):
            assert difference_to_the_full_decode(jpeg(large.convert(mode)), IMAGENET) <= 2


class TestModes:
    def test_result_is_uint8_rgb_of_the_wanted_size(self) -> None:
        pixels = load_image(png(solid("RGB", (1, 2, 3), (100, 50))), SMALL)
        assert pixels.shape == (32, 32, 3)
        assert pixels.dtype == np.uint8
        assert (pixels == [1, 2, 3]).all()

    def test_grey(self) -> None:
        assert first_pixel(png(solid("L", 77))) == (77, 77, 77)

    def test_black_and_white(self) -> None:
        assert first_pixel(png(solid("1", 1))) == (255, 255, 255)

    def test_palette(self) -> None:
        image = solid("RGB", (200, 10, 30)).convert("P", palette=Image.Palette.ADAPTIVE)
        assert first_pixel(png(image)) == (200, 10, 30)

    def test_palette_with_a_transparent_entry_is_laid_over_white(self) -> None:
        image = solid("P", 0)
        image.putpalette([10, 20, 30] * 256)
        assert first_pixel(png(image, transparency=0)) == (255, 255, 255)

    def test_alpha_is_laid_over_white(self) -> None:
        assert first_pixel(png(solid("RGBA", (255, 0, 0, 0)))) == (255, 255, 255)
        assert first_pixel(png(solid("RGBA", (0, 0, 0, 128)))) == (127, 127, 127)
        assert first_pixel(png(solid("LA", (0, 51)))) == (204, 204, 204)

    def test_cmyk(self) -> None:
        buffer = io.BytesIO()
        solid("CMYK", (0, 255, 255, 0)).save(buffer, "TIFF")
        assert first_pixel(buffer.getvalue()) == (255, 0, 0)

    @pytest.mark.parametrize(("value", "expected"), [(65535, 255), (32896, 128), (257, 1), (0, 0)])
    def test_16_bit_is_scaled_not_clipped(self, value: int, expected: int) -> None:
        image = Image.fromarray(np.full((40, 40), value, np.uint16))
        assert first_pixel(png(image)) == (expected,) * 3

    @pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "I;16"])
    def test_strips_are_the_whole(self, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (61, 40, 4), np.uint8)
        image = Image.fromarray(noise)
        if mode == "I;16":
            image = Image.fromarray(noise[:, :, 0].astype(np.uint16) * 256 + noise[:, :, 1])
        elif mode == "P":
            image = image.convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE)
            image.info["transparency"] = bytes(range(256))
        else:
            image = image.convert(mode)
        whole = np.asarray(to_rgb(image.copy()))
        monkeypatch.setattr("models.imaging.image._STRIP_ROWS", 7)
        assert len(np.unique(whole)) > 100
        assert (np.asarray(to_rgb(image)) == whole).all()

    def test_of_an_animation_the_first_frame(self) -> None:
        buffer = io.BytesIO()
        frames = [solid("RGB", (9, 9, 9)), solid("RGB", (200, 200, 200))]
        frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
        assert first_pixel(buffer.getvalue()) == (9, 9, 9)

    @pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
    def test_formats(self, image_format: str) -> None:
        buffer = io.BytesIO()
        solid("RGB", (128, 128, 128)).save(buffer, image_format)
        assert np.abs(load_image(buffer.getvalue(), SMALL).astype(int) - 128).max() <= 1

    @pytest.mark.parametrize("mode", ["I", "F"])
    def test_32_bit_pixels_are_refused(self, mode: str) -> None:
        buffer = io.BytesIO()
        solid(mode, 1).save(buffer, "TIFF")
        with pytest.raises(ImageError, match="32-bit pixels"):
            load_image(buffer.getvalue(), SMALL)

    @pytest.mark.parametrize(
        ("orientation", "corner"),
        # Where the white corner, stored at the top left, belongs. Source: EXIF 2.32, tag 0x0112.
        [(1, "tl"), (2, "tr"), (3, "br"), (4, "bl"), (5, "tl"), (6, "tr"), (7, "br"), (8, "bl")],
    )
    def test_exif_orientation(self, orientation: int, corner: str) -> None:
        image = solid("RGB", (0, 0, 0), (32, 32))
        image.paste((255, 255, 255), (0, 0, 8, 8))
        exif = Image.Exif()
        exif[0x0112] = orientation
        pixels = load_image(png(image, exif=exif), SMALL)
        y = 0 if corner[0] == "t" else -1
        x = 0 if corner[1] == "l" else -1
        assert pixels[y, x].tolist() == [255, 255, 255]
        assert pixels.sum() == 8 * 8 * 3 * 255

    @pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF"])
    def test_what_lies_on_its_side_keeps_its_ratio(self, image_format: str) -> None:
        """A TIFF is upright once Pillow has loaded it, its size even before."""
        image = solid("RGB", (0, 0, 0), (128, 64))
        image.paste((255, 255, 255), (0, 0, 48, 64))
        exif = Image.Exif()
        exif[0x0112] = 6  # a quarter to the right: white is on top then, 48 of 128 rows
        buffer = io.BytesIO()
        image.save(buffer, image_format, exif=exif)
        pixels = load_image(buffer.getvalue(), SMALL)  # of 64 rows the central 32
        assert pixels[:6].min() > 240
        assert pixels[10:].max() < 15

    def test_a_path_gives_what_its_bytes_give(self, tmp_path: Path) -> None:
        data = png(solid("RGB", (5, 6, 7)))
        (tmp_path / "a.png").write_bytes(data)
        assert (load_image(tmp_path / "a.png", SMALL) == load_image(data, SMALL)).all()


class TestRefusals:
    @pytest.mark.parametrize("data", [b"", b"x", b"GIF89a", b"%!PS-Adobe-3.0 EPSF-3.0\n" * 9])
    def test_no_image(self, data: bytes) -> None:
        with pytest.raises(ImageError):
            load_image(data, SMALL)

    def test_the_message_says_what_is_supported_and_nothing_internal(self) -> None:
        with pytest.raises(ImageError, match="supported format") as caught:
            load_image(b"hello", SMALL)
        assert "0x" not in str(caught.value)

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "^HEIC isn't a supported format"),
            (b"\0\0\0\x1cftypavif\0\0\0\0", "^AVIF isn't a supported format"),
            (b"%PDF-1.7\n", "^PDF isn't a supported format"),
            (b"GIF89a", "^not an image in a supported format"),  # it is one, but a damaged one
            (b"\0\0\0\x18ftypmp42", "^not an image in a supported format"),
        ],
    )
    def test_the_message_names_a_format_that_people_have(self, data: bytes, message: str) -> None:
        with pytest.raises(UnknownFormat, match=message):
            load_image(data, SMALL)

    def test_an_empty_file_is_no_matter_of_formats(self) -> None:
        with pytest.raises(ImageError, match="^the file is empty; copy or download it again$") as e:
            load_image(b"", SMALL)
        assert not isinstance(e.value, UnknownFormat)

    @pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF", "WEBP", "TIFF"])
    def test_the_message_names_a_format_that_is_off(self, image_format: str) -> None:
        buffer = io.BytesIO()
        solid("RGB", (1, 2, 3)).save(buffer, image_format)
        with pytest.raises(UnknownFormat, match=rf"^{image_format} isn't a supported .* \(BMP\)"):
            load_image(buffer.getvalue(), SMALL, formats=("BMP",))

    @pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
    def test_truncated(self, photos: list[Image.Image], image_format: str) -> None:
        buffer = io.BytesIO()
        photos[0].save(buffer, image_format)
        with pytest.raises(ImageError, match="truncated or corrupt"):
            load_image(buffer.getvalue()[: len(buffer.getvalue()) // 2], SMALL)

    def test_too_many_pixels_are_named_with_the_limit(self) -> None:
        with pytest.raises(ImageError, match=r"40 x 40 = 1,600 pixels, the limit is 1,599"):
            load_image(png(solid("RGB", (0, 0, 0))), SMALL, max_pixels=1599)

    def test_a_decompression_bomb_is_not_decoded(self) -> None:
        """A PNG that declares 60000 x 60000 in 100 bytes."""
        header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
        data = b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
            for kind, body in [(b"IHDR", header), (b"IDAT", zlib.compress(b"0")), (b"IEND", b"")]
        )
        with pytest.raises(ImageError, match="pixels"):
            load_image(data, SMALL)

    def test_a_small_tiff_on_a_huge_tile_is_not_decoded(self) -> None:
        """The decoder would allocate and clear 1 GB for 16 x 16 pixels."""
        (bomb,) = (s.data for s in corpus.samples() if s.name == "TIFF with a tile of 1 GB")
        with pytest.raises(ImageError, match="32768 x 32768 = 1,073,741,824 pixels"):
            load_image(bomb, SMALL)

    def test_only_the_formats_that_are_named_are_opened(self) -> None:
        data = png(solid("RGB", (1, 2, 3)))
        with pytest.raises(UnknownFormat, match=r"supported format \(JPEG, GIF\)"):
            load_image(data, SMALL, formats=("JPEG", "GIF"))
        assert load_image(data, SMALL, formats=("PNG",)).shape == (32, 32, 3)

    def test_unreadable_paths(self, tmp_path: Path) -> None:
        with pytest.raises(ImageError, match="No such file"):
            load_image(tmp_path / "none.png", SMALL)
        with pytest.raises(ImageError, match="Is a directory"):
            load_image(tmp_path, SMALL)


def test_a_strip_costs_no_more_than_its_crop() -> None:
    """Resized whole, 20000 x 2 at 256 px would be 2,560,000 x 256 pixels: 2 GB."""
    assert load_image(png(solid("RGB", (7, 7, 7), (20_000, 2))), IMAGENET).shape == (224, 224, 3)


def _seeds() -> list[bytes]:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 48, 3), np.uint8))
    seeds = []
    for image_format in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"):
        buffer = io.BytesIO()
        image.save(buffer, image_format)
        seeds.append(buffer.getvalue())
    return seeds


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.sampled_from(_seeds()),
    edits=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=12),
    length=st.integers(0, 4000),
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about damaged TIFF tags
def test_damaged_files_give_pixels_or_image_error(
    seed: bytes, edits: list[tuple[int, int]], length: int
) -> None:
    data = bytearray(seed)
    for position, value in edits:
        data[position % len(data)] = value
    try:
        pixels = load_image(bytes(data[: max(length, len(data) // 2)]), SMALL, max_pixels=10**6)
    except ImageError:
        return
    assert pixels.shape == (32, 32, 3)
    assert pixels.dtype == np.uint8


@settings(max_examples=300, deadline=None)
@given(
    magic=st.sampled_from(
        [b"", *(seed[:12] for seed in _seeds()), b"II*\0", b"MM\0+", b"\xff\xd8\xff"]
    ),
    rest=st.binary(max_size=300),
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_any_bytes_give_pixels_or_image_error(magic: bytes, rest: bytes) -> None:
    try:
        pixels = load_image(magic + rest, SMALL, max_pixels=10**6)
    except ImageError:
        return
    assert pixels.shape == (32, 32, 3)


def test_a_tensor_can_be_made_of_it(photos: list[Image.Image]) -> None:
    pixels = load_image(png(photos[0]), SMALL)
    assert torch.from_numpy(pixels.copy()).shape == (32, 32, 3)
