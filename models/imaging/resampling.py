"""Bilinear resampling of a rectangle, by SIMD instructions where cykooz_resizer is installed.

That takes a fifth of Pillow's time (docs/architecture/imaging.md). Where it has no wheel (Linux on
ARM), Pillow does the same with weights of 22 bits instead of 15: a few values in 1,000 differ, by
one level of 255.
"""

from __future__ import annotations

import math
from typing import Any

from PIL import Image

simd: Any
try:
    import cykooz_resizer

    simd = cykooz_resizer
except ImportError:
    simd = None

# left, top, right, bottom, in pixels of the source; they may lie between pixels.
Box = tuple[float, float, float, float]


def resample(image: Image.Image, size: tuple[int, int], box: Box) -> Image.Image:
    """Bring a rectangle of an image to a size, antialiased where it gets smaller.

    One side at a time: of two, each of the libraries chooses its own to come first, and levels are
    rounded between them.

    Args:
        image: RGB.
        size: width and height of the result, of which one is that of `box`.
        box: within the image; top and bottom are whole numbers where the width changes.
    """
    return _by_pillow(image, size, box) if simd is None else _by_simd(image, size, box)


def _by_pillow(image: Image.Image, size: tuple[int, int], box: Box) -> Image.Image:
    left, top, right, bottom = box
    if right - left != size[0]:
        # Were the rows chosen by `box`, Pillow would resample them, too.
        image = image.crop((0, int(top), image.width, int(bottom)))
        top, bottom = 0, image.height
    return image.resize(size, Image.Resampling.BILINEAR, box=(left, top, right, bottom))


def _by_simd(image: Image.Image, size: tuple[int, int], box: Box) -> Image.Image:
    # Not filled, as all of it is written: Pillow lets go of the GIL to fill, and beside other
    # requests getting it back takes longer than that.
    result = Image.new("RGB", size, None)
    # A resizer keeps the memory of its steps between, and lets one thread work at a time; a new one
    # costs 2 microseconds.
    simd.Resizer().resize_pil(
        image,
        result,
        simd.ResizeOptions(
            resize_alg=simd.ResizeAlg.convolution(simd.FilterType.bilinear),
            crop_box=simd.CropBox(
                box[0],
                box[1],
                _length(box[0], box[2], image.width),
                _length(box[1], box[3], image.height),
            ),
            use_alpha=False,
        ),
    )
    return result


def _length(start: float, end: float, limit: int) -> float:
    """From `start` to `end`, rounded so that `start` and it don't add up to more than `limit`."""
    length = end - start
    while start + length > limit:
        length = math.nextafter(length, 0.0)
    return length
