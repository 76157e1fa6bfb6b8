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

from benchmarks.serving import v2
from benchmarks.serving.load import infer_request
from benchmarks.serving.null_model import SPEC
from benchmarks.serving.scenarios import V2
from benchmarks.serving.workload import Expected, ServedBundle
from benchmarks.usage import Tree, Unseen
from protocol.open_inference_pb2_grpc import GRPCInferenceServiceStub
from testing.ports import free_port
from testing.server import serve

GRPC_METHOD = "/inference.GRPCInferenceService/ModelInfer"
# Decoders differ in the last level of some pixels.
TOLERANCE = 2e-2
_ROOT = Path(__file__).parents[2]
_PEERS = _ROOT / "benchmarks" / "peers"
_HOMES = Path("build/benchmarks/peers")
_START_S = 120
_SECOND_RUNS = r"vgg19_rerun_images_total\b"
# Processes or threads that call the model, where a peer has such a setting: what is fastest on two
# cores. Decoding gains by a second (1.27 times the requests of LitServe, 1.5 of TorchServe and
# MLServer, 1.6 to 1.8 of PyTriton); VGG-19 fills both cores by itself (0.89 of TorchServe's images
# with two, 0.96 of PyTriton's).
_WORKERS = {"null": 2, "real": 1}


class ContenderError(Exception):
    """It didn't start, or answers wrongly."""


@dataclass(frozen=True)
class Contender:
    """How to talk to a server.

    Args:
        name: in the results.
        folder: in benchmarks/peers; None: this project.
        command: a program of the virtual environment or of the machine with its arguments, `{...}`
            are filled in; none: somebody else starts it and says where.
        encode: an image -> a request.
        best: the answer's JSON -> label and probability.
        counter: the sample on /metrics that counts gRPC calls that were answered; None: no gRPC.
        settings: this project's environment variables.
        models: that it is measured with.
        tolerance: largest difference of the probability from the right one.
        skips: kinds of scenarios that it can't be measured in.
        pixels: its input of the v2 protocol that takes pixels; None: it has none.
        cascade: whether int8 of the model that it serves has a second run.
        needs: programs that neither pip nor npm brings, and the Debian package of each.
    """

    name: str
    folder: str | None
    command: tuple[str, ...]
    path: str
    encode: Callable[[bytes], v2.Body]
    best: Callable[[Any], Expected]
    counter: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    models: tuple[str, ...] = ("null", "real")
    tolerance: float = TOLERANCE
    skips: tuple[str, ...] = ()
    pixels: str | None = None
    cascade: bool = False
    needs: Mapping[str, str] = field(default_factory=dict)

    @property
    def external(self) -> bool:
        return self.folder is not None and not self.command

    def takes(self, kind: str) -> bool:
        """Whether it can be asked in scenarios of this kind."""
        if kind == "grpc":
            return self.counter is not None
        if kind in V2:
            return self.pixels is not None
        return kind not in self.skips

    def missing(self) -> list[str]:
        """What to install before it can run, as commands."""
        return [
            f"apt-get install {package}"
            for program, package in self.needs.items()
            if shutil.which(program) is None
        ]


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    contender: Contender
    base: str
    grpc_address: str
    metrics: str
    tree: Tree | Unseen

    @property
    def url(self) -> str:
        return self.base + self.contender.path

    def check(self, image: bytes, expected: Expected) -> None:
        """Raises ContenderError unless one request is answered as expected."""
        contender = self.contender
        reply = _post(self.url, contender.encode(image), timeout_s=60)
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
        return self._count(self.contender.counter)

    def second_runs(self) -> float:
        """Images so far that ran again in higher precision; of others than this project 0."""
        return self._count(_SECOND_RUNS) if self.contender.cascade else 0.0

    def _count(self, pattern: str) -> float:
        """The sum of the samples on /metrics that match."""
        text = httpx.get(self.metrics, timeout=30).text
        return sum(
            float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if re.match(pattern, line)
        )


@contextmanager
def run(
    contender: Contender, served: ServedBundle, place: Path, image: bytes, at: str | None = None
) -> Iterator[Running]:
    """The server from when it answers `image` to stopped; its log is `place`/log.

    Args:
        at: where one runs that somebody else started, and goes on: http://host:port.

    Raises:
        ContenderError: it doesn't start.
    """
    place.mkdir(parents=True, exist_ok=True)
    if at is not None:
        running = Running(contender, at, "", "", Unseen())
        _wait(running, image)
        yield running
    elif contender.folder is None:
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
    home = served.cascade_home if contender.cascade else served.home
    if home is None:
        raise ContenderError(f"the {served.name} model has no int8 with a second run")
    with serve(home, place / "log", **settings) as server:
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
    home = _environment(folder)
    words = [word.format(peer=_PEERS / folder, port=port) for word in contender.command]
    program = home / "bin" / words[0]
    environment = os.environ | {
        "PYTHONPATH": str(_ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "MODEL_PATH": str(served.model_file),
        "PORT": str(port),
        "GRPC_PORT": str(grpc_port),
        "METRICS_PORT": str(metrics_port),
        "NODE_PATH": str(home / "node_modules"),
        "BENTOML_HOME": str(place / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "True",
        "MLSERVER_HTTP_PORT": str(port),
        "MLSERVER_GRPC_PORT": str(grpc_port),
        "MLSERVER_METRICS_PORT": str(metrics_port),
        "MLSERVER_PARALLEL_WORKERS": str(_WORKERS[served.name]),
        "WORKERS": str(_WORKERS[served.name]),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    with (place / "log").open("wb") as output:
        process = subprocess.Popen(
            [str(program) if program.exists() else words[0], *words[1:]],
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
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if not running.tree.is_running():
            raise ContenderError("ended while starting")
        try:
            if _post(running.url, body, timeout_s=30).status_code == httpx.codes.OK:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    raise ContenderError(f"not ready after {_START_S} s")


def _post(url: str, body: v2.Body, timeout_s: float) -> httpx.Response:
    headers = {"Content-Type": body.content_type, **body.headers}
    return httpx.post(url, content=body.content, headers=headers, timeout=timeout_s)


def _environment(folder: str) -> Path:
    """The peer's own packages, of Python or of Node.js; installed when they aren't there."""
    home = (_HOMES / folder / ".venv").absolute()
    if home.exists():
        return home
    print(f"installing {folder}", flush=True)
    try:
        if (_PEERS / folder / "package.json").exists():
            _install_node(_PEERS / folder, home)
        else:
            _install_python(_PEERS / folder, home)
    except BaseException as error:
        shutil.rmtree(home, ignore_errors=True)  # half of one would be taken for a whole one
        if isinstance(error, subprocess.CalledProcessError):
            raise ContenderError(f"can't be installed: {error}") from None
        raise
    return home


def _install_python(peer: Path, home: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    pip, requirements = str(home / "bin" / "pip"), str(peer / "requirements.txt")
    subprocess.run([pip, "install", "--quiet", "-r", requirements], check=True)


def _install_node(peer: Path, home: Path) -> None:
    home.mkdir(parents=True)
    shutil.copy(peer / "package.json", home)
    # Its libraries for CPUs are in the package; what it would fetch are those for CUDA.
    environment = os.environ | {"ONNXRUNTIME_NODE_INSTALL": "skip"}
    command = ["npm", "install", "--no-audit", "--no-fund", "--loglevel=error"]
    subprocess.run(command, cwd=home, env=environment, check=True)


def _compare(actual: Expected, expected: Expected, tolerance: float) -> None:
    near = abs(actual.probability - expected.probability) <= tolerance
    if actual.label != expected.label or not near:
        raise ContenderError(f"answered {actual}, right is {expected}")


def best_of_row(row: list[float]) -> Expected:
    index = int(np.argmax(row))
    return Expected(SPEC.labels[index], row[index])
