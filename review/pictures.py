"""Images as a browser shows them."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.imaging.image import load_part
from models.imaging.overlay import overlaid
from review.desk import NotNow

# On the longer side: of a tile, for screens of two pixels a point, and of what no browser shows.
_THUMBNAIL_PIXELS = 256
_CONVERTED_PIXELS = 2048
# First bytes of what every browser shows, and animates or turns as the file says.
_SHOWN = {
    b"\xff\xd8\xff": "image/jpeg",
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"GIF8": "image/gif",
    b"BM": "image/bmp",
}


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
    return Picture("image/png", png(_whole(path, _CONVERTED_PIXELS)))


def thumbnail(path: Path) -> bytes:
    """All of an image, small, as PNG: whatever a model sees of it, a person is shown all of it.

    Raises:
        ImageError: it can't be read.
    """
    return png(_whole(path, _THUMBNAIL_PIXELS))


def png(pixels: NDArray[np.uint8]) -> bytes:
    """uint8[H,W,3] as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def explained(
    pixels: NDArray[np.uint8], heat_map: NDArray[np.float32], label: str
) -> NDArray[np.uint8]:
    """What a model sees of an image, under what speaks for a label.

    Args:
        pixels: uint8[S,S,3]. heat_map: float32[h,w], 0..1.

    Raises:
        NotNow: the map would show nothing, and so look as if there were none.
    """
    if heat_map.size == 1:
        raise NotNow(
            f"there is no heat map: of {len(pixels)} px, the network's last maps have one place, "
            f"which can't say where '{label[:50]}' is"
        )
    if not heat_map.any():
        raise NotNow(f"the heat map is empty: no place in the image speaks for '{label[:50]}'")
    return overlaid(pixels, heat_map)


def _whole(path: Path, longer: int) -> NDArray[np.uint8]:
    """All of an image in its own shape, `longer` pixels on its longer side, by way of a square."""
    shape = [1, 1]

    def all_of_it(width: int, height: int) -> tuple[float, float, float, float]:
        shape[:] = width, height
        return 0, 0, width, height

    square = Image.fromarray(load_part(path, longer, all_of_it, least=1.0))
    scale = longer / max(shape)
    return np.asarray(square.resize([max(1, round(side * scale)) for side in shape]))


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(16)
    except OSError:
        return b""  # which no format begins with, so the reason is told by who decodes it
