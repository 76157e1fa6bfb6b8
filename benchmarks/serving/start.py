"""How long the service takes to its first answer, and what memory it holds.

    python -m benchmarks.serving.start --rounds 5

Beside each start of `bentoml serve`, a process imports BentoML, loads the session and does nothing
else. Memory is measured when idle, after load, and after the model was changed under load.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from benchmarks.report import save
from benchmarks.serving.load import check_tools, closed_loop
from benchmarks.serving.workload import PLACE, USUAL, ServedBundle, photographs, prepare
from benchmarks.usage import Tree
from models.bundle.bundle import graph_bytes
from models.bundle.manifest import read_manifest
from models.bundle.writer import write_manifest
from testing.commands import vgg19
from testing.ports import free_port
from testing.server import ROOT, serve

_ALONE = """
import sys
import bentoml
import onnxruntime
options = onnxruntime.SessionOptions()
options.enable_cpu_mem_arena = False
onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
"""
_HEADERS = {"Content-Type": "image/jpeg"}
_CONNECTIONS, _SECONDS = 32, 15.0
_POLL_S, _LIMIT_S = 0.01, 120.0


def main() -> None:
    parser = argparse.ArgumentParser(description="Start time and memory.")
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    check_tools()
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
        "memory_mb": _memory(served, image),
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


def _memory(served: ServedBundle, image: bytes) -> dict[str, float]:
    """Resident MB of all processes of the service, what they share counted once."""
    found = {}
    with _two_versions(served) as home, serve(home, home / "log") as server:
        tree = Tree(server.process.pid)
        found["started"] = tree.pss_bytes() / 1e6
        load = (f"{server.url}/classify", image, "image/jpeg", _CONNECTIONS, _SECONDS)
        closed_loop(*load)
        tree.settle()
        found["after_load"] = tree.pss_bytes() / 1e6
        before = _loaded(server.url)
        vgg19(home, "promote", "latest")
        deadline = time.monotonic() + _LIMIT_S
        while _loaded(server.url) == before or len(_loaded(server.url)) > 1:
            found["largest_in_swap"] = max(
                found.get("largest_in_swap", 0.0), tree.pss_bytes() / 1e6
            )
            if time.monotonic() > deadline:
                sys.exit("the service doesn't change its model")
            time.sleep(0.05)
        tree.settle()
        found["after_swap"] = tree.pss_bytes() / 1e6
        closed_loop(*load)
        tree.settle()
        found["after_swap_and_load"] = tree.pss_bytes() / 1e6
    return found


def _loaded(url: str) -> list[str]:
    versions: list[str] = httpx.get(f"{url}/model", timeout=60).json()["loaded_versions"]
    return versions


@contextmanager
def _two_versions(served: ServedBundle) -> Iterator[Path]:
    """A home with two versions of the model, of which the first is in production."""
    place = PLACE.resolve() / "start"
    shutil.rmtree(place, ignore_errors=True)
    home = place / "bentoml"
    try:
        for number in range(2):
            bundle = place / f"bundle{number}"
            shutil.copytree(served.bundle, bundle)
            provenance = read_manifest(bundle).provenance
            created_at = f"2026-01-0{number + 1}T00:00:00+00:00"
            write_manifest(bundle, provenance.model_copy(update={"created_at": created_at}))
            vgg19(home, "register", str(bundle))
            if number == 0:
                vgg19(home, "promote", "latest")
        yield home
    finally:
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main()
