"""`vgg19 predict` against a bare loop on the same session.

    python -m benchmarks.serving.predict

Both classify the same photographs of 500 x 400 in batches of the same size, taking turns: the loop
with images that are decoded already, predict from files. Medians, and their ratio.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.report import save
from benchmarks.serving.workload import USUAL, photographs, prepare
from models.bundle.bundle import open_bundle
from models.imaging.image import load_image
from models.machine import cpu_count
from serving.engine.options import SessionOptions
from serving.engine.session import Session
from serving.offline.files import classify_files

_IMAGES, _BATCH, _ROUNDS = 64, 16, 3


def main() -> None:
    bundle = open_bundle(prepare("real").bundle)
    options = SessionOptions([("CPUExecutionProvider", {})], None, cpu_count(), _BATCH)
    session = Session(bundle, options)
    content = photographs()[USUAL]
    pixels = [load_image(content, bundle.spec.preprocessing)] * _IMAGES
    bare: list[float] = []
    predict: list[float] = []
    with tempfile.TemporaryDirectory() as directory:
        files = [Path(directory, f"{number}.jpg") for number in range(_IMAGES)]
        for file in files:
            file.write_bytes(content)
        for _ in range(_ROUNDS):
            started = time.perf_counter()
            for first in range(0, _IMAGES, _BATCH):
                session.run(pixels[first : first + _BATCH])
            middle = time.perf_counter()
            found = classify_files(
                map(str, files), session.judge, bundle.spec, None,
                top_k=5, batch_size=_BATCH, threads=cpu_count(),
            )  # fmt: skip
            assert sum(not one.error for one in found) == _IMAGES
            bare.append(_IMAGES / (middle - started))
            predict.append(_IMAGES / (time.perf_counter() - middle))
    result = {
        "bare_images_per_s": statistics.median(bare),
        "predict_images_per_s": statistics.median(predict),
        "ratio": statistics.median(p / b for p, b in zip(predict, bare, strict=True)),
    }
    print(json.dumps(result, indent=2))
    save("predict", result)


if __name__ == "__main__":
    main()
