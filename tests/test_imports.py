"""Directions of imports that only a fresh interpreter shows; import-linter checks the rest."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def modules_after(statement: str) -> set[str]:
    program = f"import sys; {statement}; print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(result.stdout.split())


@pytest.mark.slow
def test_the_service_loads_neither_torch_nor_training() -> None:
    loaded = modules_after("import service")
    assert "serving.http.app" in loaded
    assert not loaded & {"torch", "torchvision", "onnx", "sklearn", "training"}
    assert not {name for name in loaded if name.startswith(("models.export", "models.network"))}
    assert not loaded & {"model_signing", "sigstore"}  # only where a signature is required


def test_the_command_line_starts_without_torch() -> None:
    loaded = modules_after("import cli.main")
    assert not loaded & {"torch", "torchvision", "bentoml", "sklearn", "numpy", "PIL"}


@pytest.mark.slow
def test_predicting_loads_no_server() -> None:
    """Nor what a server counts with. BentoML, for its store, brings Starlette by itself."""
    server = {"grpc", "grpc_health", "starlette", "prometheus_client", "uvicorn"}
    brought = modules_after("from models.registry import store")
    loaded = modules_after("import serving.offline.predict")
    assert "serving.loading" in loaded
    assert loaded & server == brought & server <= {"starlette"}
    assert not {name for name in loaded if name.startswith(("serving.http", "serving.grpc"))}


def test_only_tests_import_tests() -> None:
    """What others need of them is in `testing`."""
    names = re.compile(r"\b(?:from|import) tests[.\s]|-m tests[.]|['\"]tests[.]\w")
    files = [
        path
        for path in (*ROOT.glob("*.py"), *ROOT.glob("*/**/*.py"), *ROOT.glob("*/*.sh"))
        if not path.relative_to(ROOT).parts[0].startswith((".", "tests", "build"))
    ]
    assert ROOT / "deploy" / "image_client.py" in files
    assert [str(path) for path in files if names.search(path.read_text())] == []
