"""A contender, from its virtual environment to its answers: installed, started, asked, stopped."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np

from benchmarks.load import infer_request
from benchmarks.null_model import SPEC
from benchmarks.usage import Tree
from benchmarks.workload import Expected, ServedBundle
from protocol.open_inference_pb2_grpc import GRPCInferenceServiceStub
from testing.ports import free_port
from testing.server import serve

GRPC_METHOD = "/inference.GRPCInferenceService/ModelInfer"
# Decoders differ in the last level of some pixels.
TOLERANCE = 2e-2
_ROOT = Path(__file__).parents[1]
_PEERS = Path(__file__).with_name("peers")
_VENVS = Path("build/benchmarks/peers")
_START_S = 120


class ContenderError(Exception):
    """It didn't start, or answers wrongly."""


@dataclass(frozen=True)
class Contender:
    """How to talk to a server.

    Args:
        name: in the results.
        folder: in benchmarks/peers; None: this project.
        command: arguments after the virtual environment's `bin/`, `{...}` are filled in.
        encode: an image -> the request's body.
        best: the answer's JSON -> label and probability.
        counter: the sample on /metrics that counts gRPC calls that were answered; None: no gRPC.
        settings: this project's environment variables.
        models: that it is measured with.
        tolerance: largest difference of the probability from the right one.
    """

    name: str
    folder: str | None
    command: tuple[str, ...]
    path: str
    content_type: str
    encode: Callable[[bytes], bytes]
    best: Callable[[Any], Expected]
    counter: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    models: tuple[str, ...] = ("null", "real")
    tolerance: float = TOLERANCE


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    contender: Contender
    base: str
    grpc_address: str
    metrics: str
    tree: Tree

    @property
    def url(self) -> str:
        return self.base + self.contender.path

    def check(self, image: bytes, expected: Expected) -> None:
        """Raises ContenderError unless one request is answered as expected."""
        contender = self.contender
        headers = {"Content-Type": contender.content_type}
        reply = httpx.post(self.url, content=contender.encode(image), headers=headers, timeout=60)
        if reply.status_code != httpx.codes.OK:
            raise ContenderError(f"answered {reply.status_code}: {reply.text[:300]}")
        _compare(contender.best(reply.json()), expected, contender.tolerance)

    def compare(self, actual: Expected, expected: Expected) -> None:
        """Raises ContenderError unless an answer is as expected."""
        _compare(actual, expected, self.contender.tolerance)

    def check_grpc(self, image: bytes, expected: Expected) -> None:
        request = infer_request(image)
        with grpc.insecure_channel(self.grpc_address) as channel:
            reply = GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=60)
        index = next(i for i, out in enumerate(reply.outputs) if out.name == "probabilities")
        if reply.raw_output_contents:
            values = np.frombuffer(reply.raw_output_contents[index], np.float32)
        else:
            values = np.array(reply.outputs[index].contents.fp32_contents, np.float32)
        _compare(best_of_row(values.tolist()), expected, self.contender.tolerance)

    def answered_calls(self) -> float:
        """gRPC calls so far that were answered well, by the server's own counter."""
        assert self.contender.counter is not None
        text = httpx.get(self.metrics, timeout=30).text
        return sum(
            float(line.rsplit(" ", 1)[1])
            for line in text.splitlines()
            if re.match(self.contender.counter, line)
        )


@contextmanager
def run(contender: Contender, served: ServedBundle, place: Path, image: bytes) -> Iterator[Running]:
    """The server from when it answers `image` to stopped; its log is `place`/log.

    Raises:
        ContenderError: it doesn't start.
    """
    place.mkdir(parents=True, exist_ok=True)
    if contender.folder is None:
        with _run_ours(contender, served, place) as running:
            yield running
    else:
        with _run_peer(contender, contender.folder, served, place) as running:
            _wait(running, image)
            yield running


def log_tail(place: Path, lines: int = 8) -> str:
    log = place / "log"
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""


@contextmanager
def _run_ours(contender: Contender, served: ServedBundle, place: Path) -> Iterator[Running]:
    # The null model stands for a fast one, as on a GPU, where 32 is the default. The peers have it
    # set.
    of_model = {"VGG19_MAX_BATCH_SIZE": "32"} if served.name == "null" else {}
    settings = {"VGG19_ACCESS_LOG": "false", **of_model, **contender.settings}
    with serve(served.home, place / "log", **settings) as server:
        yield Running(
            contender,
            server.url,
            f"127.0.0.1:{server.grpc_port}",
            f"{server.url}/metrics",
            Tree(server.process.pid),
        )


@contextmanager
def _run_peer(
    contender: Contender, folder: str, served: ServedBundle, place: Path
) -> Iterator[Running]:
    port, grpc_port, metrics_port = free_port(), free_port(), free_port()
    binaries = _environment(folder) / "bin"
    words = [word.format(peer=_PEERS / folder, port=port) for word in contender.command]
    environment = os.environ | {
        "PYTHONPATH": str(_ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "MODEL_PATH": str(served.model_file),
        "PORT": str(port),
        "BENTOML_HOME": str(place / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "True",
        "MLSERVER_HTTP_PORT": str(port),
        "MLSERVER_GRPC_PORT": str(grpc_port),
        "MLSERVER_METRICS_PORT": str(metrics_port),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    with (place / "log").open("wb") as output:
        process = subprocess.Popen(
            [str(binaries / words[0]), *words[1:]],
            cwd=place, env=environment, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    tree = Tree(process.pid)
    try:
        running = Running(
            contender,
            f"http://127.0.0.1:{port}",
            f"127.0.0.1:{grpc_port}",
            f"http://127.0.0.1:{metrics_port}/metrics",
            tree,
        )
        yield running
    finally:
        tree.stop()
        process.wait()


def _wait(running: Running, image: bytes) -> None:
    body = running.contender.encode(image)
    headers = {"Content-Type": running.contender.content_type}
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if not running.tree.is_running():
            raise ContenderError("ended while starting")
        try:
            reply = httpx.post(running.url, content=body, headers=headers, timeout=30)
            if reply.status_code == httpx.codes.OK:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    raise ContenderError(f"not ready after {_START_S} s")


def _environment(folder: str) -> Path:
    """The peer's virtual environment; made when it isn't there."""
    venv = (_VENVS / folder / ".venv").absolute()
    if venv.exists():
        return venv
    print(f"installing {folder}", flush=True)
    try:
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        requirements = str(_PEERS / folder / "requirements.txt")
        subprocess.run(
            [str(venv / "bin" / "pip"), "install", "--quiet", "-r", requirements], check=True
        )
    except BaseException as error:
        shutil.rmtree(venv, ignore_errors=True)  # half of one would be taken for a whole one
        if isinstance(error, subprocess.CalledProcessError):
            raise ContenderError(f"can't be installed: {error}") from None
        raise
    return venv


def _compare(actual: Expected, expected: Expected, tolerance: float) -> None:
    near = abs(actual.probability - expected.probability) <= tolerance
    if actual.label != expected.label or not near:
        raise ContenderError(f"answered {actual}, right is {expected}")


def best_of_row(row: list[float]) -> Expected:
    index = int(np.argmax(row))
    return Expected(SPEC.labels[index], row[index])
