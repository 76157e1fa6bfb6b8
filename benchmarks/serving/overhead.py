"""What the service leaves of the model's throughput: images a second through HTTP, beside a bare
loop of the same session.

    python -m benchmarks.serving.overhead

VGG-19 at 224 px; the loop and `bentoml serve` take turns, each in processes of its own; the median
of the ratios.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from benchmarks.report import medians, save
from benchmarks.serving.contenders import CONTENDERS, OURS
from benchmarks.serving.load import check_tools, closed_loop
from benchmarks.serving.running import run
from benchmarks.serving.workload import PLACE, USUAL, photographs, prepare
from models.bundle.spec import ModelSpec
from models.imaging.image import load_image
from models.machine import cpu_count
from serving.engine.onnxruntime import inference_session
from serving.engine.options import SessionOptions
from serving.engine.providers import CPU

_ROUNDS = 7
# Clients, which are the loop's batch as well, and seconds.
_TURNS = ((1, 6.0), (16, 15.0))


def main() -> None:
    check_tools()
    served, image = prepare("real"), photographs()[USUAL]
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    loop = multiprocessing.get_context("spawn").Process(
        target=bare_loop, args=(served.model_file, image, theirs), daemon=True
    )
    loop.start()
    found: dict[str, list[dict[str, float]]] = {}
    with run(CONTENDERS[OURS], served, PLACE.resolve() / "logs" / "overhead", image) as running:
        for number in range(_ROUNDS):
            for clients, seconds in _TURNS:
                ours.send((clients, seconds))
                bare = ours.recv()
                load = closed_loop(running.url, image, "image/jpeg", clients, seconds)
                rate = load.steady_rate(clients)
                row = {"bare": bare, "service": rate, "ratio": rate / bare}
                print(number, clients, row, flush=True)
                found.setdefault(f"{clients} at a time", []).append(row)
    loop.terminate()
    result = medians(found)
    print(json.dumps(result, indent=2))
    save("overhead", {"images_per_second": result})


def bare_loop(model: Path, image: bytes, pipe: Connection) -> None:
    """Answers a batch size and a time with images a second; the session is as the service's."""
    options = SessionOptions([(CPU, {})], None, cpu_count(), max_batch_size=16)
    session = inference_session(model, options)
    spec = ModelSpec.read(model.with_name("spec.json"))
    pixels = load_image(image, spec.preprocessing)
    while True:
        size, seconds = pipe.recv()
        batch = np.repeat(pixels[None], size, axis=0)
        runs, started = 0, time.monotonic()
        while time.monotonic() - started < seconds:
            session.run([spec.output_name], {spec.input_name: batch})
            runs += 1
        pipe.send(runs * size / (time.monotonic() - started))


if __name__ == "__main__":
    main()
