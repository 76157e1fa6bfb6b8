"""From an image of any size to the square that the network sees."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.imaging.preprocessing import Preprocessing
from models.imaging.resampling import Box, resample

# Width and height.
Size = tuple[int, int]

# Resampling a whole side takes 20 bytes of weights for each of its pixels: 1.7 GB for a strip of 89
# million. Longer sides, which no photograph has, are averaged down to this many pixels before.
_LONGEST_SIDE = 32_768


def to_square(
    image: Image.Image, preprocessing: Preprocessing, original: Size
) -> NDArray[np.uint8]:
    """Bring an image to the network's input, by the rule of `preprocessing`.

    Args:
        image: RGB, upright.
        original: width and height before any reduced decode, which rounds them.

    Returns:
        uint8[S, S, 3], S = `preprocessing.image_size`.
    """
    size = resized_size(original, preprocessing)
    match preprocessing.resize:
        case "crop":
            square = _centre_crop(image, preprocessing.image_size, size)
        case "squash":
            square = _whole(image, size)
        case "pad":
            square = _padded(_whole(image, size), preprocessing)
    return np.asarray(square, dtype=np.uint8)


def part_to_square(image: Image.Image, part: Box, side: int, original: Size) -> NDArray[np.uint8]:
    """Resize a rectangle of an image to a square.

    Args:
        image: RGB, upright.
        part: left, top, right, bottom, in pixels of the original.
        original: width and height before any reduced decode.

    Returns:
        uint8[side, side, 3].
    """
    across, down = image.width / original[0], image.height / original[1]
    left, top, right, bottom = part
    box = (left * across, top * down, right * across, bottom * down)
    return np.asarray(resample_box(image, box, (side, side)), dtype=np.uint8)


def resized_size(original: Size, preprocessing: Preprocessing) -> Size:
    """What the whole image is resized to, before it is cropped or padded.

    Args:
        original: of the image, either way up.

    Returns:
        width and height in pixels, 1 or more. Rounding follows torchvision for crop
        (`_compute_resized_output_size`); for pad it is to the nearest.
    """
    side = preprocessing.image_size
    if preprocessing.resize == "squash":
        return side, side
    shorter, longer = min(original), max(original)
    if preprocessing.resize == "pad":
        short, long = max(1, round(side * shorter / longer)), side
    else:
        short = preprocessing.resize_size
        long = int(short * longer / shorter)
    return (short, long) if original[0] <= original[1] else (long, short)


def kept_share(original: Size, preprocessing: Preprocessing) -> float:
    """How much of an image's area the network sees: above 0, up to 1.

    Args:
        original: width and height, either way up: an image turned by EXIF keeps as much.
    """
    if preprocessing.resize != "crop":
        return 1.0
    return preprocessing.image_size**2 / math.prod(resized_size(original, preprocessing))


def resample_box(image: Image.Image, box: Box, size: Size) -> Image.Image:
    """Bring a rectangle of an image to a size: across first and then down, as torchvision does.

    Args:
        image: RGB.
        box: left, top, right, bottom within the image, in pixels; they may lie between pixels.
    """
    left, top, right, bottom = box
    width, height = size
    first, last = _rows_for(top, bottom, image.height, height)
    across = resample(image, (width, last - first), (left, first, right, last))
    return resample(across, size, (0, top - first, width, bottom - first))


def _centre_crop(image: Image.Image, side: int, resized: Size) -> Image.Image:
    """Resize the image and crop the centre, as torchvision's ImageClassification does.

    Rounding of offsets follows torchvision (`_center_crop_compute_crop_anchor`). Unlike there, only
    what the crop keeps is resized, which takes about 0.6 of the time. Up to a few values in 1,000
    round to the level next to torchvision's, see `models.imaging.resampling`.
    """
    (left, right), (top, bottom) = (
        _source_of(length, after, side) for length, after in zip(image.size, resized, strict=True)
    )
    return resample_box(image, (left, top, right, bottom), (side, side))


def _whole(image: Image.Image, size: Size) -> Image.Image:
    """Resize all of an image.

    Across first, as torchvision does; but a strip that gets wider and less high, down first: across
    first, one of 1 x 30,000 would become 224 x 30,000 between.
    """
    image, box = _shortened(image)
    if image.width < size[0] and image.height > size[1]:
        down = resample(image, (image.width, size[1]), (0, box[1], image.width, box[3]))
        return resample(down, size, (box[0], 0, box[2], size[1]))
    return resample_box(image, box, size)


def _shortened(image: Image.Image) -> tuple[Image.Image, Box]:
    """The image with no side above `_LONGEST_SIDE`, and where in it the whole image lies: averages
    of pixels that don't come out even reach beyond its edges."""
    width, height = (math.ceil(length / _LONGEST_SIDE) for length in image.size)
    box = (0.0, 0.0, image.width / width, image.height / height)
    return (image if width == height == 1 else image.reduce((width, height))), box


def _padded(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """The image in the middle of the square; an odd pixel goes to the right or below."""
    side = preprocessing.image_size
    square = Image.new("RGB", (side, side), preprocessing.pad_colour)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def _source_of(length: int, resized: int, size: int) -> tuple[float, float]:
    """Where the central `size` pixels of a side begin and end before it is resized."""
    start = round((resized - size) / 2.0)
    return start * length / resized, (start + size) * length / resized


def _rows_for(top: float, bottom: float, height: int, size: int) -> tuple[int, int]:
    """The rows that the filter reads for those from `top` to `bottom`, brought to `size`."""
    reach = math.ceil(max(1.0, (bottom - top) / size)) + 1
    return max(0, math.floor(top) - reach), min(height, math.ceil(bottom) + reach)
