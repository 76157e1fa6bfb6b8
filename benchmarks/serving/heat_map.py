"""What heat maps cost: a map against a classification, and memory before and after the first.

    python -m benchmarks.serving.heat_map

VGG-19 at 224 px with random weights, in one process, as the service loads both graphs. Taking
turns; the median of the ratios.
"""

from __future__ import annotations

import json
import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.report import save
from benchmarks.usage import anonymous_mb
from models.bundle.bundle import EXPLAINED_INPUT, HEAT_MAP_OUTPUT
from models.bundle.spec import ModelSpec
from models.export.explainer_graph import write_explainer
from models.export.onnx_export import ServingModule, export
from models.machine import cpu_count
from models.network.build import build
from models.network.vgg19 import VGG19
from serving.engine.onnxruntime import inference_session
from serving.engine.options import SessionOptions

_ROUNDS = 15
_SPEC = ModelSpec(labels=("a", "b", "c"))


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        plain, explained = Path(directory, "model.onnx"), Path(directory, "model.explain.onnx")
        # Elsewhere, since PyTorch would leave its own traces in this process's memory.
        exporting = multiprocessing.get_context("spawn").Process(
            target=write_graphs, args=(plain, explained)
        )
        exporting.start()
        exporting.join()
        result = measure(plain, explained)
    print(json.dumps(result, indent=2))
    save("heat_map", result)


def write_graphs(plain: Path, explained: Path) -> None:
    export(ServingModule(build(VGG19, "none", num_classes=3), _SPEC), _SPEC, plain)
    write_explainer(plain, explained, _SPEC)


def measure(plain: Path, explained: Path) -> dict[str, float]:
    options = SessionOptions([("CPUExecutionProvider", {})], None, cpu_count(), max_batch_size=1)
    size = _SPEC.preprocessing.image_size
    image = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), dtype=np.uint8)
    classify = inference_session(plain, options)
    classify.run([_SPEC.output_name], {_SPEC.input_name: image})
    before = anonymous_mb()
    started = time.perf_counter()
    explain = inference_session(explained, options, saves_memory=True)
    load_s = time.perf_counter() - started
    feed = {_SPEC.input_name: image, EXPLAINED_INPUT: np.array([1])}
    times = []
    for _ in range(_ROUNDS + 1):
        first = time.perf_counter()
        classify.run([_SPEC.output_name], {_SPEC.input_name: image})
        second = time.perf_counter()
        explain.run([HEAT_MAP_OUTPUT], feed)
        times.append((second - first, time.perf_counter() - second))
    return {
        "load_s": load_s,
        "map_to_classification": statistics.median(b / a for a, b in times[1:]),
        "map_ms": 1e3 * statistics.median(b for _, b in times[1:]),
        "anonymous_mb_before": before,
        "anonymous_mb_after": anonymous_mb(),
    }


if __name__ == "__main__":
    main()
