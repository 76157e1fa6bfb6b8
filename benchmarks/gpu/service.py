"""`vgg19 serve` on the card: requests from other processes, over both transports."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.gpu.decoding import measure_decoding
from benchmarks.gpu.place import Place
from benchmarks.gpu.prepare import photographs
from benchmarks.gpu.timing import CardWatch
from testing.server import Server, serve

_ROOT = Path(__file__).parents[2]
_CLIENTS = 4


@dataclass(frozen=True)
class Load:
    name: str
    kind: str
    images: int = 1


LOADS = (
    Load("HTTP, JPEG 500 x 400", "jpeg"),
    Load("HTTP, pixels", "pixels"),
    Load("HTTP, pixels, 8 a request", "pixels", 8),
    Load("gRPC, JPEG 500 x 400", "grpc"),
    Load("gRPC, pixels", "grpc-pixels"),
    Load("gRPC, pixels, 8 a request", "grpc-pixels", 8),
)


# Each a process with an event loop, threads that decode, and a session on the card.
WORKERS = (1, 2, 4, 8)


def run(place: Place) -> None:
    measure_decoding(place)
    for workers in WORKERS if place.on_gpu else (1,):
        settings = service_settings(place, "float16", workers)
        with serve(place.home, place.path / f"serve-{workers}.log", **settings) as server:
            for load in LOADS:
                measure(place, server, load, f"workers {workers}, {load.name}")


def service_settings(place: Place, precision: str, workers: int = 1) -> dict[str, str]:
    """A queue that holds what the clients can have under way: 64 requests of 8 images."""
    return {
        "VGG19_DEVICE": place.device,
        "VGG19_PRECISION": precision if place.on_gpu else "float32",
        "VGG19_WORKERS": str(workers),
        "VGG19_MAX_QUEUE_IMAGES": "1024",
        "VGG19_ACCESS_LOG": "false",
    }


def measure(place: Place, server: Server, load: Load, name: str) -> None:
    body = place.path / f"body-{load.kind.removeprefix('grpc-')}-{load.images}"
    jpeg = load.kind in ("jpeg", "grpc")
    if jpeg:
        body.write_bytes(next(place.data.glob("val/*/*.jpg")).read_bytes())
    else:
        body.write_bytes(np.ascontiguousarray(photographs(place, load.images)).tobytes())
    address = f"127.0.0.1:{server.grpc_port if load.kind.startswith('grpc') else server.http_port}"
    seconds = 4 * place.scale.seconds
    drive(load, address, place.scale.connections, min(1.0, seconds), body)
    workers = [psutil.Process(server.process.pid), *server.children()]
    before = _cpu(workers)
    with CardWatch() as card:
        found = drive(load, address, place.scale.connections, seconds, body)
    place.add(
        name,
        images_per_s=found["requests_per_s"] * load.images,
        p50_ms=found["p50_ms"],
        p99_ms=found["p99_ms"],
        gpu=card.utilisation,
        gpu_mb=card.memory_mb,
        server_cores=(_cpu(workers) - before) / found["seconds"],
        outcomes=found["outcomes"],
    )


def drive(load: Load, address: str, connections: int, seconds: float, body: Path) -> dict[str, Any]:
    """Clients in several processes, together."""
    each = -(-connections // _CLIENTS)
    command = [
        sys.executable, "-m", "benchmarks.gpu.clients", load.kind, address, str(each),
        str(seconds), str(body), str(load.images),
    ]  # fmt: skip
    processes = [
        subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True)
        for _ in range(_CLIENTS)
    ]
    replies = [json.loads(process.communicate(timeout=seconds + 60)[0]) for process in processes]
    times = sorted(time for reply in replies for time in reply["times"])
    outcomes = sum((Counter(reply["outcomes"]) for reply in replies), Counter())
    good = outcomes["200"] + outcomes["ok"]
    took = max(reply["seconds"] for reply in replies)
    return {
        "requests_per_s": good / took,
        "p50_ms": 1e3 * times[len(times) // 2],
        "p99_ms": 1e3 * times[int(len(times) * 0.99)],
        "seconds": took,
        "outcomes": dict(outcomes),
    }


def _cpu(processes: Sequence[psutil.Process]) -> float:
    """Seconds of CPU time so far."""
    total = 0.0
    for process in processes:
        times = process.cpu_times()
        total += times.user + times.system
    return total
