"""Bytes or a file -> uint8[S,S,3] RGB: the only image decode in the project.

Training, evaluation and serving all call `load_image`, with the geometry stored in the bundle,
so that they can't drift apart. No other module opens images.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from models.errors import ImageError, TooManyPixels, UnknownFormat
from models.imaging.formats import known_format
from models.imaging.geometry import Size, part_to_square, resized_size, to_square
from models.imaging.jpeg import check_jpeg, check_jpeg_head
from models.imaging.png import lean_png
from models.imaging.preprocessing import Preprocessing
from models.imaging.resampling import Box

# Raised when the same file becomes other pixels, since the way of decoding or of resizing has
# changed: features that were cached from the former ones are then not taken for those of the new.
DECODE_RULE = 1

# Raster formats only: Pillow also opens EPS (which starts Ghostscript) and other formats that
# have no place in an upload. The service takes fewer, see `serving.settings`.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

# Pillow's own threshold for a decompression bomb: 1 GiB at 3 bytes a pixel, divided by 4.
MAX_PIXELS = 89_478_485

# libjpeg decodes large JPEGs straight to a half, a quarter or an eighth of their size, by dropping
# frequencies. No side gets below this many times what it is resized to, so that the antialiased
# resize still has the detail that it averages.
_REDUCED_DECODE_MARGIN = 2

# EXIF orientations that swap width and height.
_ON_ITS_SIDE = (5, 6, 7, 8)
_UPRIGHT = 1

_WHITE = (255, 255, 255, 255)
_STRIP_ROWS = 256


@dataclass(frozen=True, slots=True)
class Decoded:
    """An image as the network sees it, and what its file was.

    pixels: uint8[S, S, 3], RGB. width, height: of the upright original. format: Pillow's name.
    quantization: mean of the steps, 1 to 65535, by which a JPEG's luminance was divided: 11 at
    quality 90 of libjpeg, 96 at 30. None: no JPEG.
    """

    pixels: NDArray[np.uint8]
    width: int
    height: int
    format: str
    quantization: float | None = None


def decode_image(
    source: bytes | Path,
    preprocessing: Preprocessing,
    *,
    max_pixels: int = MAX_PIXELS,
    formats: tuple[str, ...] = FORMATS,
) -> Decoded:
    """As `load_image`, with what the file was."""
    with _opened(source, formats, max_pixels) as image:
        name = image.format or ""
        steps = _quantization(image)
        upright = _load(image, resized_size(image.size, preprocessing))
        pixels = to_square(to_rgb(image), preprocessing, upright)
        return Decoded(pixels, *upright, name, steps)


def load_image(
    source: bytes | Path,
    preprocessing: Preprocessing,
    *,
    max_pixels: int = MAX_PIXELS,
    formats: tuple[str, ...] = FORMATS,
) -> NDArray[np.uint8]:
    """Decode an image and bring it to the network's geometry.

    EXIF orientation is applied; palette, grey, CMYK and 16-bit images become 8-bit RGB; alpha is
    laid over white; of an animation the first frame is taken.

    Args:
        source: encoded image, or the path of one.
        preprocessing: the size rule, see `Preprocessing`.
        max_pixels: limit on width x height, checked before anything is decoded.
        formats: those of `FORMATS` that are tried; no other decoder sees the bytes.

    Returns:
        uint8[S, S, 3], RGB, with S = `preprocessing.image_size`.

    Raises:
        UnknownFormat: not an image of these formats.
        TooManyPixels: more than `max_pixels`.
        ImageError: truncated or corrupt, too many pixels, made to keep a decoder busy, or a file
            that can't be read. The message begins with the path where `source` is one.
    """
    return decode_image(source, preprocessing, max_pixels=max_pixels, formats=formats).pixels


def load_part(
    source: bytes | Path, side: int, choose: Callable[[int, int], Box], *, least: float
) -> NDArray[np.uint8]:
    """Decode an image and resize a part of it to a square: `load_image` for augmentation.

    Args:
        source: encoded image, or the path of one.
        side: of the result, in pixels.
        choose: from width and height of the upright image to left, top, right, bottom of the part,
            all in pixels of the original.
        least: the shortest side that a part may have, as a share of the image's shorter side, above
            0: a JPEG is decoded with the detail for it.

    Returns:
        uint8[side, side, 3], RGB.

    Raises:
        ImageError: as `load_image`.
    """
    with _opened(source, FORMATS, MAX_PIXELS) as image:
        enough = math.ceil(side / least)
        original = _load(image, (enough, enough))
        return part_to_square(to_rgb(image), choose(*original), side, original)


def _load(image: Image.Image, resized: Size) -> Size:
    """Decode with the detail that a resize to this size needs, either way up.

    Returns:
        the upright width and height, before any reduced decode.
    """
    size = image.size
    # A JPEG larger than needed is decoded at 1/2, 1/4 or 1/8 (no other format can).
    width, height = (_REDUCED_DECODE_MARGIN * length for length in resized)
    image.draft(None, (width, height))
    image.load()
    # Asked now, since a TIFF is upright, its size included, once it is loaded.
    return size[::-1] if _orientation(image) in _ON_ITS_SIDE else size


@dataclass(frozen=True)
class ImageFacts:
    """What a file says of its image: pixels across and down as stored, Pillow's mode, and whether
    EXIF turns or mirrors it."""

    width: int
    height: int
    mode: str
    turned: bool


def image_facts(source: bytes | Path) -> ImageFacts:
    """Look at an image without decoding it.

    Raises:
        ImageError: as `load_image`, as far as the head of the file tells.
    """
    with _opened(source, FORMATS, MAX_PIXELS) as image:
        return ImageFacts(
            image.width, image.height, image.mode, _orientation(image) not in (_UPRIGHT, None, 0)
        )


def read_image_file(path: Path) -> bytes:
    """The bytes of a file, for those who need them besides the image.

    Raises:
        ImageError: it can't be read; the message doesn't name it.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"can't be read: {error.strerror}") from None
    except ValueError as error:  # a name that no file can have: with a zero, or not encodable
        raise ImageError(f"can't be read: {error}") from None


def _unknown_format(data: bytes, formats: tuple[str, ...]) -> str:
    found, supported = known_format(data), ", ".join(formats)
    if found is None or found in formats:
        return f"not an image in a supported format ({supported}); convert it to one of them"
    return f"{found} isn't a supported format ({supported}); convert the image to one of them"


@contextmanager
def _opened(
    source: bytes | Path, formats: tuple[str, ...], max_pixels: int
) -> Iterator[Image.Image]:
    """The one way to an image: whatever is wrong with it, then or in the block, is an ImageError.

    It names the file where the source is one.
    """
    name = f"{source}: " if isinstance(source, Path) else ""
    try:
        data = lean_png(read_image_file(source) if isinstance(source, Path) else source)
        if not data:
            raise ImageError("the file is empty; copy or download it again")
        check_jpeg_head(data)
        with Image.open(io.BytesIO(data), formats=formats) as image:
            _check_pixels(image, max_pixels)
            check_jpeg(data)
            # All at once, which `BytesIO` gives without a copy. Of Pillow's blocks of 64 kB each is
            # another wait for the GIL, and what the decoder left of the last one is copied to it.
            image.decodermaxblock = max(image.decodermaxblock, len(data))
            yield image
    except ImageError as error:
        error.args = (f"{name}{error}",)
        raise
    except UnidentifiedImageError:
        raise UnknownFormat(name + _unknown_format(data, formats)) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        # Pillow says so while it opens the file, whatever our limit.
        raise ImageError(f"{name}the image has far too many pixels; scale it down") from None
    except Exception as error:
        # On hostile bytes Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error,
        # zlib.error, EOFError, ... All of them mean the same: these bytes are no whole image.
        raise ImageError(f"{name}the image is truncated or corrupt; save it again") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Turn any supported mode into 8-bit RGB, upright.

    Raises:
        ImageError: 32-bit integer or floating point pixels, whose white point is undefined.
    """
    image = _upright(image)
    if image.mode in ("I", "F"):
        raise ImageError(
            f"the image has 32-bit pixels (mode {image.mode}), which have no defined white; "
            "save it with 8 or 16 bits a channel"
        )
    if image.mode.startswith("I;16"):
        return _in_strips(image, _scaled_from_16_bits)
    if image.has_transparency_data:
        return _in_strips(image, _over_white)
    return image if image.mode == "RGB" else image.convert("RGB")


def _in_strips(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """As `convert` of the whole, whose steps between would take 12 bytes a pixel besides."""
    rgb = Image.new("RGB", image.size)
    for top in range(0, image.height, _STRIP_ROWS):
        rows = image.crop((0, top, image.width, min(top + _STRIP_ROWS, image.height)))
        rgb.paste(convert(rows), (0, top))
    return rgb


def _scaled_from_16_bits(image: Image.Image) -> Image.Image:
    # Pillow's own conversion clips at 255 instead of scaling 65535 to 255.
    grey = np.asarray(image, dtype=np.float32) * (255 / 65535)
    return Image.fromarray(np.round(grey).astype(np.uint8)).convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, _WHITE), rgba).convert("RGB")


def _check_pixels(image: Image.Image, max_pixels: int) -> None:
    width, height = max(image.size, _tile_size(image), key=math.prod)
    if width * height > max_pixels:
        raise TooManyPixels(width, height, max_pixels)


def _tile_size(image: Image.Image) -> tuple[int, int]:
    """Of a TIFF, whose tiles are decoded whole: 200 bytes can be an icon on a tile of 1 GB."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return (0, 0)
    tags = image.tag_v2
    width, height = TiffImagePlugin.TILEWIDTH, TiffImagePlugin.TILELENGTH
    return tags.get(width, 0), tags.get(height, 0)


def _quantization(image: Image.Image) -> float | None:
    """See `Decoded`; of the table that every encoder gives to luminance, the first. Pillow has read
    it with the head of the file."""
    tables = getattr(image, "quantization", None)
    if not tables:
        return None
    table = tables[min(tables)]
    return float(sum(table)) / len(table)


def _orientation(image: Image.Image) -> int | None:
    """EXIF's, 1 to 8; None where it says nothing. A damaged block says nothing either: it isn't
    about pixels, and viewers ignore it."""
    with suppress(Exception):
        return image.getexif().get(ExifTags.Base.Orientation)
    return None


def _upright(image: Image.Image) -> Image.Image:
    image.load()
    with suppress(Exception):  # a damaged EXIF block, see `_orientation`
        ImageOps.exif_transpose(image, in_place=True)
    return image
