"""`vgg19 serve`, `doctor` and `predict` become another process: signals reach it, and nothing of
the command stays in its memory."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from models.errors import UserError

# Where service.py lies, and all packages.
ROOT = Path(__file__).resolve().parents[1]


class LaunchError(UserError):
    """The service can't be started as asked for."""


def serve_with_bentoml(host: str, port: int, grpc_port: int, model: str) -> NoReturn:
    """Replace this process by BentoML's, so that signals reach it; does not return.

    Raises:
        LaunchError: the HTTP port is taken. (BentoML would show a traceback; what else can be
            wrong is found by the service's own check.)
    """
    check_port(host, port)
    settings = {
        "VGG19_MODEL": model,
        "VGG19_GRPC_HOST": host,
        "VGG19_GRPC_PORT": str(grpc_port),
        # BentoML reports usage to its makers unless told not to.
        "BENTOML_DO_NOT_TRACK": os.environ.get("BENTOML_DO_NOT_TRACK", "True"),
        # Of glibc, which reads it before a line of Python runs: large memory in huge pages. Weights
        # are laid out for the processor in half the time, and given back in 3 ms in place of 40, in
        # which no request could be answered (docs/benchmarks.md).
        "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"),
    }
    options = ["--host", host, "--port", str(port), "--working-dir", str(ROOT)]
    _become("bentoml", ["serve", "service:VGG19", *options], settings)


def page_address(host: str, port: int) -> str:
    """Of the service's page, for a browser on this machine."""
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  # all addresses
    return f"http://{f'[{here}]' if ':' in here else here}:{port}"


def run_doctor() -> NoReturn:
    """Replace this process by the service's own diagnosis; does not return."""
    _become("serving.doctor", [], {})


def run_predict(
    sources: Sequence[str], output: Path, top_k: int, model: str, engine: str, workers: int
) -> NoReturn:
    """Replace this process by the service's own offline prediction; does not return.

    Raises:
        LaunchError: workers for an engine that has none.
    """
    if workers and engine != "ray":
        raise LaunchError(f"--workers {workers} needs --engine ray, this is {engine}")
    arguments = [str(output), str(top_k), engine, str(workers), *sources]
    _become("serving.offline.predict", arguments, {"VGG19_MODEL": model})


def _become(module: str, arguments: Sequence[str], variables: dict[str, str]) -> NoReturn:
    """Replace this process by a module that runs as a program.

    `python -m` would look for it, and for all that it imports, in the user's directory first, where
    other things of these names may lie; -P keeps it from there.
    """
    environment = os.environ | variables
    if not any(Path(path).resolve() == ROOT for path in _site_packages()):  # a checkout
        others = [environment["PYTHONPATH"]] if environment.get("PYTHONPATH") else []
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *others])
    command = [sys.executable, "-P", "-m", module, *arguments]
    os.execve(command[0], command, environment)


def _site_packages() -> list[str]:
    return [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]


def check_port(host: str, port: int) -> None:
    """Raise LaunchError unless one can listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, port), family=family):
            pass
    except OSError as error:
        raise LaunchError(
            f"can't listen on {host}:{port} ({error.strerror or error}); choose another --host or "
            "--port"
        ) from None
