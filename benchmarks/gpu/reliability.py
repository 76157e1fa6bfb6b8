"""What must go on, or end well, on a card: each with what came of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.gpu.place import Place
from benchmarks.gpu.service import LOADS, drive, service_settings
from benchmarks.gpu.training import start
from testing.commands import run_command, vgg19
from testing.images import write_image_folder
from testing.ports import free_port
from testing.server import Server, serve, wait_until_ready
from training.data.batch import Batch
from training.loop.trainer import TrainState

_ROOT = Path(__file__).parents[2]
# Seconds of load, and when in it something happens; clients take a second to start.
_LOAD_S, _EVENT_S = 3.0, 2.0
_START_S = 20.0


def run(place: Place) -> None:
    under_load(place)
    refusals(place)
    out_of_memory(place)
    nccl(place)


def refusals(place: Place) -> None:
    """What can't be served is one line, and no silent fall back."""
    cases: tuple[tuple[str, dict[str, str]], ...] = (
        (
            "VGG19_DEVICE=cuda, no card to be seen",
            {"VGG19_DEVICE": "cuda", "CUDA_VISIBLE_DEVICES": ""},
        ),
        ("VGG19_GPU_MEM_LIMIT of 200 MB", {"VGG19_GPU_MEM_LIMIT": "200000000"}),
    )
    for name, settings in cases:
        result = start_service(place, settings)
        lines = [line for line in result.stdout.splitlines() if "VGG19_" in line]
        place.add(name, exit_code=result.returncode, said=lines[-1:])
    doctor = run_command("vgg19", "doctor", cwd=place.path, home=place.home)
    place.add("vgg19 doctor", exit_code=doctor.returncode)
    print(doctor.stdout, doctor.stderr, flush=True)


def start_service(place: Place, settings: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable, "-m", "bentoml", "serve", "service:VGG19", "--host", "127.0.0.1", "--port",
        str(free_port()),
    ]  # fmt: skip
    environment = os.environ | {
        "BENTOML_HOME": str(place.home),
        "VGG19_GRPC_PORT": str(free_port()),
        "VGG19_PRECISION": "float16",
        **settings,
    }
    process = subprocess.Popen(
        command, cwd=_ROOT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=_START_S)
    except subprocess.TimeoutExpired:
        process.terminate()
        output, _ = process.communicate(timeout=_START_S)
        output += f"\nin spite of its VGG19_ settings it was serving after {_START_S} s"
    return subprocess.CompletedProcess(command, process.returncode, output)


def under_load(place: Place) -> None:
    """A worker killed, another model promoted, and SIGTERM, while 64 connections ask."""
    settings = service_settings(place, "float16")
    with serve(place.home, place.path / "reliability-serve.log", **settings) as server:
        found = during(place, server, lambda: again(place))
        place.add("promoted again under load", **found)
        started = time.perf_counter()
        kill_worker(server)
        wait_until_ready(server)
        place.add("worker killed", seconds_until_ready=time.perf_counter() - started)
        found = during(place, server, lambda: server.process.send_signal(signal.SIGTERM))
        place.add("SIGTERM under load", exit_code=server.process.wait(30), **found)


def during(place: Place, server: Server, event: Any) -> dict[str, Any]:
    """What came of the requests, in the middle of which `event` happened."""
    body = place.path / "body-jpeg-1"
    body.write_bytes(next(place.data.glob("val/*/*.jpg")).read_bytes())
    found: dict[str, Any] = {}

    def ask() -> None:
        address = f"127.0.0.1:{server.http_port}"
        found.update(drive(LOADS[0], address, place.scale.connections, _LOAD_S, body))

    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(_EVENT_S)
    event()
    asking.join()
    return found


def again(place: Place) -> None:
    vgg19(place.home, "promote", "latest")


def kill_worker(server: Server) -> None:
    workers = server.workers()
    if not workers:
        raise RuntimeError("the service has no worker that could be killed")
    for worker in workers:
        worker.kill()
    psutil.wait_procs(workers, timeout=10)


def nccl(place: Place) -> None:
    """One process of torchrun, which is to say NCCL on a card."""
    write_image_folder(place.path / "colours", {"blue": 24, "red": 24})
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "1", "--master-port",
        str(free_port()), "-m", "testing.thin_cli", "train", "--data", "colours", "--output",
        f"nccl-{time.time_ns()}", "--weights", "none", "--image-size", "32", "--epochs", "2",
    ]  # fmt: skip
    result = subprocess.run(
        command, cwd=place.path,
        env=os.environ | {"PYTHONPATH": str(_ROOT), "NCCL_DEBUG": "VERSION"},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    said = [
        line
        for line in (result.stdout + result.stderr).splitlines()
        if "NCCL" in line or "accuracy on" in line
    ]
    place.add("torchrun, one process", exit_code=result.returncode, said=said[:3])


def out_of_memory(place: Place) -> None:
    """A batch that doesn't fit, with auto_batch."""
    import torch

    if not place.on_gpu:
        return
    _, trainer = start(place, strategy="full", batch_size=512, views=0, auto_batch=True)
    torch.cuda.set_per_process_memory_fraction(
        12e9 / torch.cuda.get_device_properties(0).total_memory
    )
    size = place.scale.image_size
    images = torch.randint(0, 256, (512, size, size, 3), dtype=torch.uint8)
    batch = Batch(images, torch.randint(0, 10, (512,)), torch.arange(512), torch.ones(512))
    done = trainer.step(batch, TrainState())
    place.add("a batch of 512 in 12 GB", images=done, micro_batch_size=trainer.micro_batch_size)
