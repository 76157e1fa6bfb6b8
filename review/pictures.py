"""Images as a browser shows them."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.imaging.image import load_image, load_part, read_image_file
from models.imaging.preprocessing import Preprocessing

_THUMBNAIL_PIXELS = 160
# Whatever a model sees of it, a person who judges an image is shown all of it.
_ALL_OF_IT = Preprocessing(image_size=_THUMBNAIL_PIXELS, resize="pad")
# First bytes of what every browser shows, and animates or turns as the file says.
_SHOWN = {
    b"\xff\xd8\xff": "image/jpeg",
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"GIF8": "image/gif",
    b"BM": "image/bmp",
}
# Of what no browser shows, on its longer side.
_CONVERTED_PIXELS = 2048


@dataclass(frozen=True)
class Picture:
    """What to send. `content`: None where it is the file as it is."""

    media_type: str
    content: bytes | None


def browser_picture(path: Path) -> Picture:
    """The file itself where browsers show its format, else a PNG of it.

    The type follows from the content and never from the name, so a file that only claims to be an
    image is decoded here and refused.

    Raises:
        ImageError: it can't be read.
    """
    head = _head(path)
    for beginning, media_type in _SHOWN.items():
        if head.startswith(beginning):
            return Picture(media_type, None)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return Picture("image/webp", None)
    return Picture("image/png", png(_whole(path)))


def thumbnail(path: Path) -> bytes:
    """All of an image in a square, as PNG.

    Raises:
        ImageError: it can't be read.
    """
    return png(load_image(read_image_file(path), _ALL_OF_IT))


def png(pixels: NDArray[np.uint8]) -> bytes:
    """uint8[H,W,3] as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _whole(path: Path) -> NDArray[np.uint8]:
    """All of an image in its own shape, by way of a square."""
    shape = [1, 1]

    def all_of_it(width: int, height: int) -> tuple[float, float, float, float]:
        shape[:] = width, height
        return 0, 0, width, height

    square = Image.fromarray(load_part(path, _CONVERTED_PIXELS, all_of_it, least=1.0))
    scale = _CONVERTED_PIXELS / max(shape)
    return np.asarray(square.resize([max(1, round(side * scale)) for side in shape]))


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(16)
    except OSError:
        return b""  # which no format begins with, so the reason is told by who decodes it
