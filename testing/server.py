"""A real `bentoml serve` process, and a store for it to serve from."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from models import bentoml_adapter
from models.bundle.bundle import GOLDEN_FILE
from models.bundle.golden import GoldenSamples
from models.bundle.manifest import read_manifest
from models.bundle.writer import write_manifest
from models.registry import store
from testing import patient
from testing.bundles import write_tiny_bundle
from testing.ports import free_port
from testing.waiting import HANG_S, wait_until

ROOT = Path(__file__).parents[1]
START_TIMEOUT_S = 120
PROJECT = "service:VGG19"
COMMAND = "vgg19 serve"  # the same, as a user starts it


@dataclass(frozen=True)
class Server:
    """A service that runs, and where."""

    process: subprocess.Popen[bytes]
    http_port: int
    grpc_port: int
    log: Path
    tls: ssl.SSLContext | None = None

    @property
    def url(self) -> str:
        scheme = "http" if self.tls is None else "https"
        return f"{scheme}://127.0.0.1:{self.http_port}"

    def children(self) -> list[psutil.Process]:
        children: list[psutil.Process] = psutil.Process(self.process.pid).children(recursive=True)
        return children

    def workers(self) -> list[psutil.Process]:
        """The children that serve, not BentoML's resource tracker."""
        module = bentoml_adapter.worker_module()
        found = []
        for process in self.children():
            with suppress(psutil.Error):  # it has ended meanwhile
                if module in process.cmdline():
                    found.append(process)
        return found

    def access_log(self, count: int, holding: str = "") -> list[dict[str, Any]]:
        """The requests logged so far, in order, those whose lines hold `holding`.

        A line is written a moment after its answer was sent, so this waits for `count` of them.
        """
        requests: list[dict[str, Any]] = []

        def are_there() -> bool:
            whole = [line for line in self.log.read_text().split("\n")[:-1] if holding in line]
            requests[:] = [json.loads(line) for line in whole if line.startswith('{"time"')]
            return len(requests) >= count

        wait_until(are_there)
        return requests


@contextmanager
def serve(home: Path, log: Path, what: str = PROJECT, **settings: str) -> Iterator[Server]:
    """`bentoml serve` on free ports of 127.0.0.1, from ready to stopped.

    Args:
        what: this project, COMMAND, or a Bento's directory.
    """
    with serve_with(home, log, settings, what=what) as server:
        yield server


@contextmanager
def serve_with(
    home: Path,
    log: Path,
    settings: Mapping[str, str],
    *,
    what: str = PROJECT,
    options: Sequence[str] = (),
    cwd: Path | None = None,
    tls: ssl.SSLContext | None = None,
) -> Iterator[Server]:
    """As `serve`.

    Args:
        options: of the command.
        cwd: where it is typed; default: in the project or the Bento.
        tls: of clients, where options have HTTP encrypted.
    """
    http_port, grpc_port = free_port(), free_port()
    environment = os.environ | {
        "BENTOML_HOME": str(home),
        "BENTOML_DO_NOT_TRACK": "True",
        "VGG19_GRPC_PORT": str(grpc_port),
        **settings,
    }
    words = COMMAND.split() if what == COMMAND else ["bentoml", "serve", what]
    command = [str(Path(sys.executable).with_name(words[0])), *words[1:]]
    directory = cwd or (ROOT if what in (PROJECT, COMMAND) else what)
    command += ["--host", "127.0.0.1", "--port", str(http_port), *options]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=directory,
            env=environment,
            stdout=output,
            stderr=output,
        )
    server = Server(process, http_port, grpc_port, log, tls)
    try:
        wait_until_ready(server)
        yield server
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=HANG_S)
            except subprocess.TimeoutExpired:
                for child in server.children():  # or they would go on beside all tests
                    child.kill()
                process.kill()
                process.wait()
                raise


def wait_until_ready(server: Server) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    trusting = {} if server.tls is None else {"verify": server.tls}
    with patient.client(timeout=5, **trusting) as client:
        while time.monotonic() < deadline:
            code = server.process.poll()
            assert code is None, f"ended with {code}: {server.log.read_text()}"
            with suppress(httpx.HTTPError):
                if client.get(f"{server.url}/readyz").status_code == httpx.codes.OK:
                    return
            time.sleep(0.05)
    raise AssertionError(f"not ready: {server.log.read_text()}")


def make_home(
    directory: Path, busy: int = 0, *, fails_on_white: bool = False, explainer_busy: int = 0
) -> Path:
    """A BentoML home whose production model is the tiny one; see `write_tiny_bundle`."""
    bundle = write_tiny_bundle(
        directory / "bundle",
        busy=busy,
        fails_on_white=fails_on_white,
        explainer_busy=explainer_busy,
    )
    return put_into_production(bundle)


def register_version(place: Path, day: int, *, busy: int = 0, lies: bool = False) -> str:
    """Register a tiny model in `place`/home; its tag.

    Args:
        day: of January 2026, on which it was made.
        busy: see `write_tiny_bundle`.
        lies: its golden samples are not what it answers, so it can't be loaded.
    """
    home = place / "home"
    bundle = write_tiny_bundle(place / f"bundle{day}", f"2026-01-0{day}T12:00:00+00:00", busy)
    if lies:
        golden = GoldenSamples.read(bundle / GOLDEN_FILE)
        wrong = golden.probabilities[::-1]
        golden.model_copy(update={"probabilities": wrong}).write(bundle / GOLDEN_FILE)
        write_manifest(bundle, read_manifest(bundle).provenance)
    with store_of(home):
        return store.register(bundle)


def put_into_production(bundle: Path) -> Path:
    """A BentoML home beside a bundle, whose production model it is."""
    home = bundle.with_name("bentoml")
    with store_of(home):
        store.promote(store.register(bundle))
    return home


def promote(home: Path, tag: str) -> None:
    """Put a registered model into production, in this process."""
    with store_of(home):
        store.promote(tag)


@contextmanager
def store_of(home: Path) -> Iterator[None]:
    """Have `models.registry.store` work with a BentoML home in this process, as `vgg19` does in one
    of its own, which takes a second to start."""
    (home / "models").mkdir(parents=True, exist_ok=True)
    before = bentoml_adapter.store_directory()
    bentoml_adapter.choose_store_directory(home / "models")
    try:
        yield
    finally:
        bentoml_adapter.choose_store_directory(None)
        if bentoml_adapter.store_directory() != before:  # another one was chosen
            bentoml_adapter.choose_store_directory(before)
