"""What a batch costs on the CPU: time and memory of VGG-19's session by batch size, as ONNX Runtime
has it by default, without its arena, and as the service has it.

    python -m benchmarks.serving.batches

Each in a process of its own; they take turns; medians. Memory is what no file backs, after batches
of that size and smaller ones in turn.
"""

from __future__ import annotations

import json
import multiprocessing
import statistics
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import onnxruntime as ort

from benchmarks.report import save
from benchmarks.usage import anonymous_mb
from models.bundle.spec import ModelSpec
from models.machine import cpu_count
from serving.engine.onnxruntime import inference_session
from serving.engine.options import SessionOptions
from serving.engine.providers import CPU

_SIZES = (1, 2, 4, 8, 16, 32)
_ROUNDS = 5
_PAUSE_S = 0.1  # ONNX Runtime's threads spin for a while after a run, on the others' cores


def session(kind: str, model: Path) -> ort.InferenceSession:
    if kind == "as the service has it":
        return inference_session(model, SessionOptions([(CPU, {})], None, cpu_count(), 0))
    options = ort.SessionOptions()
    options.intra_op_num_threads = cpu_count()
    options.enable_cpu_mem_arena = kind != "without the arena"
    return ort.InferenceSession(model, options, providers=[CPU])


def answer(kind: str, model: Path, pipe: Connection) -> None:
    """Answers batch sizes with ms an image and the process's memory in MB; 0 ends it."""
    running = session(kind, model)
    spec = ModelSpec.read(model.with_name("spec.json"))
    side = spec.preprocessing.image_size
    random = np.random.default_rng(0)
    while size := pipe.recv():
        batch = random.integers(0, 256, (size, side, side, 3), dtype=np.uint8)
        started = time.perf_counter()
        running.run([spec.output_name], {spec.input_name: batch})
        pipe.send((1e3 * (time.perf_counter() - started) / size, anonymous_mb()))


def grow(pipe: Connection) -> dict[int, float]:
    """Memory in MB after batches of up to each size."""
    memory = {}
    for largest in _SIZES:
        for size in (largest, 1, largest // 2 + 1, largest):
            pipe.send(size)
            memory[largest] = pipe.recv()[1]
    return memory


def main() -> None:
    from benchmarks.serving.workload import (
        prepare,  # imports PyTorch, which the measured processes mustn't
    )

    model, spawn = prepare("real").model_file, multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    for kind in ("ONNX Runtime's defaults", "without the arena", "as the service has it"):
        pipes[kind], theirs = spawn.Pipe()
        spawn.Process(target=answer, args=(kind, model, theirs), daemon=True).start()
    memory = {kind: grow(pipe) for kind, pipe in pipes.items()}
    times: dict[str, dict[int, list[float]]] = {kind: {} for kind in pipes}
    for number in range(_ROUNDS):
        for size in _SIZES:
            for kind, pipe in list(pipes.items())[:: 1 if number % 2 else -1]:
                time.sleep(_PAUSE_S)
                pipe.send(size)
                times[kind].setdefault(size, []).append(pipe.recv()[0])
    for pipe in pipes.values():
        pipe.send(0)
    result = {
        kind: {
            size: {"ms_an_image": statistics.median(times[kind][size]), "mb": memory[kind][size]}
            for size in _SIZES
        }
        for kind in pipes
    }
    print(json.dumps(result, indent=2))
    save("batches", {"batches": result})


if __name__ == "__main__":
    main()
