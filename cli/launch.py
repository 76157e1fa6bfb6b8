"""`vgg19 serve`, `doctor` and `predict` become another process: signals reach it, and nothing of
the command stays in its memory."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from models.errors import UserError


class LaunchError(UserError):
    """The service can't be started as asked for."""


def serve_with_bentoml(host: str, port: int, grpc_port: int, model: str) -> None:
    """Replace this process by BentoML's, so that signals reach it; does not return.

    Raises:
        LaunchError: the HTTP port is taken. (BentoML would show a traceback; what else can be
            wrong is found by the service's own check.)
    """
    _check_port(host, port)
    spec = find_spec("service")
    assert spec is not None
    assert spec.origin is not None
    settings = {
        "VGG19_MODEL": model,
        "VGG19_GRPC_HOST": host,
        "VGG19_GRPC_PORT": str(grpc_port),
        # BentoML reports usage to its makers unless told not to.
        "BENTOML_DO_NOT_TRACK": os.environ.get("BENTOML_DO_NOT_TRACK", "True"),
    }
    command = [sys.executable, "-m", "bentoml", "serve", "service:VGG19"]
    options = ["--host", host, "--port", str(port), "--working-dir", str(Path(spec.origin).parent)]
    os.execve(command[0], command + options, os.environ | settings)


def run_doctor() -> None:
    """Replace this process by the service's own diagnosis; does not return."""
    os.execv(sys.executable, [sys.executable, "-m", "serving.doctor"])


def run_predict(
    sources: Sequence[str], output: Path, top_k: int, model: str, engine: str, workers: int
) -> None:
    """Replace this process by the service's own offline prediction; does not return.

    Raises:
        LaunchError: workers for an engine that has none.
    """
    if workers and engine != "ray":
        raise LaunchError(f"--workers {workers} needs --engine ray, this is {engine}")
    command = [
        sys.executable,
        "-m",
        "serving.offline.predict",
        str(output),
        str(top_k),
        engine,
        str(workers),
    ]
    command += sources
    os.execve(command[0], command, os.environ | {"VGG19_MODEL": model})


def _check_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, port), family=family):
            pass
    except OSError as error:
        raise LaunchError(
            f"can't listen on {host}:{port} ({error.strerror or error}); choose another --host or "
            "--port"
        ) from None
