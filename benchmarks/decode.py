"""Decoding photographs: at reduced scale (`models.image`) against all of their pixels.

    python -m benchmarks.decode

The two take turns on each image; medians, and their ratio.
"""

from __future__ import annotations

import io
import json
import statistics
import time
from pathlib import Path
from unittest.mock import patch

from PIL import Image
from sklearn.datasets import load_sample_images

from benchmarks.machine import describe_machine
from models.image import load_image
from models.spec import Preprocessing

_SIZES = {"500 x 400": (500, 400), "2 megapixels": (1632, 1224), "12 megapixels": (4000, 3000)}
_ROUNDS = 15


def main() -> None:
    photograph = Image.fromarray(load_sample_images().images[0])
    rows = {name: measure(jpeg(photograph.resize(size))) for name, size in _SIZES.items()}
    for name, row in rows.items():
        print(
            f"{name:14} full {row['full_ms']:6.1f} ms  reduced {row['reduced_ms']:6.1f} ms  "
            f"{row['times_as_fast']:.2f} times as fast"
        )
    path = Path("build/benchmarks/decode.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": describe_machine(), "sizes": rows}, indent=2) + "\n")


def measure(data: bytes) -> dict[str, float]:
    """Milliseconds of either way to uint8[224,224,3]."""
    full, reduced = [], []
    for _ in range(_ROUNDS):
        with patch("models.image._REDUCED_DECODE_MARGIN", 10**6):
            full.append(_milliseconds(data))
        reduced.append(_milliseconds(data))
    return {
        "full_ms": statistics.median(full),
        "reduced_ms": statistics.median(reduced),
        "times_as_fast": statistics.median(f / r for f, r in zip(full, reduced, strict=True)),
    }


def _milliseconds(data: bytes) -> float:
    started = time.perf_counter()
    load_image(data, Preprocessing())
    return (time.perf_counter() - started) * 1000


def jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
