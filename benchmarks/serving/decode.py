"""Decoding photographs as `models.imaging.image` does it, beside the same with all of their pixels,
and beside Pillow's decode and resize, which is what the peers do.

    python -m benchmarks.serving.decode

The three take turns on each image; medians, and of ratios.
"""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable
from unittest.mock import patch

from PIL import Image
from sklearn.datasets import load_sample_images

from benchmarks.peers.common import decode
from benchmarks.report import save
from models.imaging.image import load_image
from models.imaging.preprocessing import Preprocessing

_SIZES = {"500 x 400": (500, 400), "2 megapixels": (1632, 1224), "12 megapixels": (4000, 3000)}
_ROUNDS = 15


def main() -> None:
    photograph = Image.fromarray(load_sample_images().images[0])
    rows = {name: measure(jpeg(photograph.resize(size))) for name, size in _SIZES.items()}
    for name, row in rows.items():
        print(f"{name:14} " + "  ".join(f"{key} {value:.2f}" for key, value in row.items()))
    save("decode", {"sizes": rows})


def measure(data: bytes) -> dict[str, float]:
    """Milliseconds of each way to uint8[224,224,3], and how many times as fast ours is."""
    pillow, full, reduced = [], [], []
    for _ in range(_ROUNDS):
        pillow.append(_milliseconds(lambda: decode(data)))
        with patch("models.imaging.image._REDUCED_DECODE_MARGIN", 10**6):
            full.append(_milliseconds(lambda: load_image(data, Preprocessing())))
        reduced.append(_milliseconds(lambda: load_image(data, Preprocessing())))
    return {
        "pillow_ms": statistics.median(pillow),
        "full_ms": statistics.median(full),
        "reduced_ms": statistics.median(reduced),
        "pillow/reduced": _median_ratio(pillow, reduced),
        "full/reduced": _median_ratio(full, reduced),
    }


def _median_ratio(first: list[float], second: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(first, second, strict=True))


def _milliseconds(way: Callable[[], object]) -> float:
    started = time.perf_counter()
    way()
    return (time.perf_counter() - started) * 1000


def jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
