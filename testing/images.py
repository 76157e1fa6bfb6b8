"""Images that are made up: noise of three colours."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIZE = 32
COLOURS = ("blue", "green", "red")  # sorted, as the labels of an image folder are


def encode(pixels: NDArray[np.uint8], image_format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, image_format)
    return buffer.getvalue()


def coloured_pixels(seed: int, colour: str | None = None, size: int = SIZE) -> NDArray[np.uint8]:
    """Noise of which one channel is brighter; no two seeds give the same image."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 120, (size, size, 3), dtype=np.uint8)
    channel = ("red", "green", "blue").index(colour or COLOURS[seed % 3])
    pixels[:, :, channel] += 100
    return pixels


def write_image_folder(root: Path, counts: dict[str, int], first_seed: int = 0) -> Path:
    """`root/COLOUR/N.png`, `counts` images of each colour."""
    seed = first_seed
    for colour, count in counts.items():
        (root / colour).mkdir(parents=True, exist_ok=True)
        for _ in range(count):
            path = root / colour / f"{seed:04}.png"
            path.write_bytes(encode(coloured_pixels(seed, colour)))
            seed += 1
    return root
