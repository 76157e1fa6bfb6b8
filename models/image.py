"""Bytes or a file -> uint8[S,S,3] RGB: the only image decode in the project.

Training, evaluation and serving all call `load_image`, with the geometry stored in the bundle,
so that they can't drift apart.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from models.errors import ImageError
from models.spec import Preprocessing

# Raster formats only: Pillow also opens EPS (which starts Ghostscript) and other formats that
# have no place in an upload.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

# Pillow's own threshold for a decompression bomb: 1 GiB at 3 bytes a pixel, divided by 4.
MAX_PIXELS = 89_478_485

# libjpeg decodes large JPEGs straight to a half, a quarter or an eighth of their size, by dropping
# frequencies. The shorter side never gets below this many times its final length, so that the
# antialiased resize still has the detail that it averages.
_REDUCED_DECODE_MARGIN = 2

# EXIF orientations that swap width and height.
_ON_ITS_SIDE = (5, 6, 7, 8)

# Longer images than this, in units of their shorter side, are not resized whole.
_MAX_ASPECT_RATIO = 8

_WHITE = (255, 255, 255, 255)


def load_image(
    source: bytes | Path, preprocessing: Preprocessing, *, max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8]:
    """Decode an image and bring it to the network's geometry.

    EXIF orientation is applied; palette, grey, CMYK and 16-bit images become 8-bit RGB; alpha is
    laid over white; of an animation the first frame is taken.

    Args:
        source: encoded image, or the path of one.
        preprocessing: the size rule, see `Preprocessing`.
        max_pixels: limit on width x height, checked before anything is decoded.

    Returns:
        uint8[S, S, 3], RGB, with S = `preprocessing.image_size`.

    Raises:
        ImageError: not an image of a supported format, truncated or corrupt, too many pixels, or
            a file that can't be read.
    """
    try:
        with Image.open(_open(source), formats=FORMATS) as image:
            _check_pixels(image, max_pixels)
            size = image.size[::-1] if _is_on_its_side(image) else image.size
            # A JPEG larger than needed is decoded at 1/2, 1/4 or 1/8 (no other format can).
            enough = _REDUCED_DECODE_MARGIN * preprocessing.resize_size
            image.draft(None, (enough, enough))
            return resize_and_crop(to_rgb(image), preprocessing, size)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(
            f"not an image in a supported format ({', '.join(FORMATS)}); convert it to one of them"
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(f"the image has more than {max_pixels:,} pixels; scale it down") from None
    except Exception as error:
        # On hostile bytes Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error,
        # zlib.error, EOFError, ... All of them mean the same: these bytes are no whole image.
        raise ImageError("the image is truncated or corrupt; save it again") from error


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
        # Pillow's own conversion clips at 255 instead of scaling 65535 to 255.
        grey = np.asarray(image, dtype=np.float32) * (255 / 65535)
        return Image.fromarray(np.round(grey).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, _WHITE), rgba).convert("RGB")
    return image.convert("RGB")


def resize_and_crop(
    image: Image.Image, preprocessing: Preprocessing, original: tuple[int, int]
) -> NDArray[np.uint8]:
    """Resize the shorter side and crop the centre, as torchvision's ImageClassification does.

    Rounding of sizes and offsets follows torchvision (`_compute_resized_output_size`,
    `_center_crop_compute_crop_anchor`).

    Args:
        original: width and height before any reduced decode, which rounds them.

    Returns:
        uint8[S, S, 3].
    """
    size, short = preprocessing.image_size, preprocessing.resize_size
    long = int(short * max(original) / min(original))
    resized = (short, long) if original[0] <= original[1] else (long, short)
    left, top = (round((length - size) / 2.0) for length in resized)
    box = (left, top, left + size, top + size)
    if long <= _MAX_ASPECT_RATIO * short:
        cropped = image.resize(resized, Image.Resampling.BILINEAR).crop(box)
    else:
        # Resized whole, a strip of 20000 x 2 would be 2,560,000 x 256 pixels. Only the crop is
        # computed then; Pillow's two passes may round by one level differently.
        source = _source_of(box, image.size, resized)
        cropped = image.resize((size, size), Image.Resampling.BILINEAR, box=source)
    return np.asarray(cropped, dtype=np.uint8)


def _source_of(
    box: tuple[int, int, int, int], original: tuple[int, int], resized: tuple[int, int]
) -> tuple[float, float, float, float]:
    """The rectangle (left, top, right, bottom) of the original that becomes `box` when resized."""
    scale_x, scale_y = original[0] / resized[0], original[1] / resized[1]
    left, top, right, bottom = box
    return (
        left * scale_x,
        top * scale_y,
        min(right * scale_x, original[0]),
        min(bottom * scale_y, original[1]),
    )


def _open(source: bytes | Path) -> io.BytesIO:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    try:
        return io.BytesIO(source.read_bytes())
    except OSError as error:
        raise ImageError(f"{source} can't be read: {error.strerror}") from None


def _check_pixels(image: Image.Image, max_pixels: int) -> None:
    pixels = image.width * image.height
    if pixels > max_pixels:
        raise ImageError(
            f"the image has {image.width} x {image.height} = {pixels:,} pixels, "
            f"the limit is {max_pixels:,}; scale it down"
        )


def _is_on_its_side(image: Image.Image) -> bool:
    try:
        return image.getexif().get(ExifTags.Base.Orientation) in _ON_ITS_SIDE
    except Exception:  # a damaged EXIF block, see `_upright`
        return False


def _upright(image: Image.Image) -> Image.Image:
    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        # A damaged EXIF block says nothing about the pixels; viewers ignore it as well.
        return image
