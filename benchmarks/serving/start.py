"""How long the service takes to its first answer.

    python -m benchmarks.serving.start --rounds 5

Beside each start of `bentoml serve`, a process imports BentoML, loads the session and does nothing
else.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import httpx

from benchmarks.report import save
from benchmarks.serving.workload import USUAL, ServedBundle, photographs, prepare
from benchmarks.usage import Tree
from models.bundle.bundle import graph_bytes
from testing.ports import free_port
from testing.server import ROOT

_ALONE = """
import sys
import bentoml
import onnxruntime
options = onnxruntime.SessionOptions()
options.enable_cpu_mem_arena = False
onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
"""
_HEADERS = {"Content-Type": "image/jpeg"}
_POLL_S, _LIMIT_S = 0.01, 120.0


def main() -> None:
    parser = argparse.ArgumentParser(description="Start time.")
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    served, image = prepare("real"), photographs()[USUAL]
    alone, first_answer = [], []
    for _ in range(rounds):
        alone.append(_import_and_load(served))
        first_answer.append(_first_answer(served, image))
        print(f"alone {alone[-1]:.2f} s, first answer {first_answer[-1]:.2f} s", flush=True)
    report = {
        "import_and_load_s": statistics.median(alone),
        "first_answer_s": statistics.median(first_answer),
        "ratio": statistics.median(b / a for a, b in zip(alone, first_answer, strict=True)),
        "weights_mb": graph_bytes(served.model_file) / 1e6,
    }
    save("start", report)
    print(json.dumps(report, indent=2))


def _import_and_load(served: ServedBundle) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-W", "ignore", "-c", _ALONE, served.model_file], check=True)
    return time.perf_counter() - started


def _first_answer(served: ServedBundle, image: bytes) -> float:
    """Seconds from the start of `bentoml serve` to the first image classified."""
    port = free_port()
    command = [
        str(Path(sys.executable).with_name("bentoml")), "serve", "service:VGG19",
        "--host", "127.0.0.1", "--port", str(port),
    ]  # fmt: skip
    environment = os.environ | {
        "BENTOML_HOME": str(served.home),
        "BENTOML_DO_NOT_TRACK": "True",
        "VGG19_GRPC_PORT": str(free_port()),
    }
    with (served.home / "start.log").open("wb") as log:
        started = time.perf_counter()
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
    try:
        while not _answers(f"http://127.0.0.1:{port}/classify", image):
            if process.poll() is not None or time.perf_counter() - started > _LIMIT_S:
                sys.exit(f"the service doesn't answer; see {served.home / 'start.log'}")
            time.sleep(_POLL_S)
        return time.perf_counter() - started
    finally:
        Tree(process.pid).stop()


def _answers(url: str, image: bytes) -> bool:
    try:
        return httpx.post(url, content=image, headers=_HEADERS, timeout=60).is_success
    except httpx.HTTPError:
        return False


if __name__ == "__main__":
    main()
