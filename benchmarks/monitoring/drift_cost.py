"""What counting for drift costs a request: measuring an image after its decoding, and adding an
answer to the histogram.

    python -m benchmarks.monitoring.drift_cost

The parts take turns with the decoding of a photograph of 500 x 400; medians, and of ratios.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from benchmarks.report import save
from benchmarks.serving.decode import jpeg
from models.imaging.image import decode_image
from models.imaging.preprocessing import Preprocessing
from models.monitoring.features import ImageMeasures, Layout
from serving.core.requests import InferResponse
from serving.core.statistics import Timings
from serving.engine.session import ModelOutput
from serving.observability.drift import Counter

_ROUNDS, _REPEATS = 200, 20
_CLASSES = 10


class _Model:
    """As much of a served model as a counter looks at."""

    acceptance = None


def main() -> None:
    photograph = Image.fromarray(load_sample_images().images[0]).resize((500, 400))
    content, rule = jpeg(photograph), Preprocessing()
    decoded = decode_image(content, rule)
    counter = Counter(Layout.of([str(label) for label in range(_CLASSES)]))
    probabilities = np.random.default_rng(0).dirichlet(np.ones(_CLASSES)).astype(np.float32)
    measures = ImageMeasures.of(decoded)
    answer = InferResponse(
        _Model(),  # type: ignore[arg-type]
        [ModelOutput(probabilities, 0.5)],
        Timings(0, 0, 0),
        [measures],
    )
    ways: dict[str, Callable[[], object]] = {
        "decode": lambda: decode_image(content, rule),
        "measure": lambda: ImageMeasures.of(decoded),
        "count": lambda: counter.add(answer),  # every 256th puts all of them into bins
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(_ROUNDS):
        for name, way in ways.items():
            started = time.perf_counter()
            for _ in range(_REPEATS):
                way()
            seconds[name].append((time.perf_counter() - started) / _REPEATS)
    row = {f"{name}_us": 1e6 * statistics.median(values) for name, values in seconds.items()}
    row["count_us"] = 1e6 * statistics.mean(seconds["count"])  # with its 256ths
    for name in ("measure", "count"):
        row[f"{name}/decode"] = row[f"{name}_us"] / row["decode_us"]
    print("  ".join(f"{name} {value:.4g}" for name, value in row.items()))
    save("drift_cost", row)


if __name__ == "__main__":
    main()
