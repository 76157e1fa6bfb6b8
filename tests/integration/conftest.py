"""A service that the tests of this folder ask."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from testing.commands import run_command
from testing.ports import free_port
from testing.server import PROJECT, ROOT, Server, make_home, serve
from tests.integration.browsing import browser, open_page

__all__ = ["browser", "open_page"]  # fixtures


def refusal(home: Path, **settings: str) -> str:
    """The one line with which `bentoml serve` says why it doesn't start."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ({"VGG19_GRPC_PORT": str(free_port())} | settings).items():
            patch.setenv(name, value)
        result = run_command(
            "bentoml", "serve", PROJECT, "--host", "127.0.0.1", "--port", str(free_port()),
            cwd=ROOT, home=home,
        )  # fmt: skip
    assert result.returncode != 0
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert "Traceback" not in result.stdout
    return result.stderr


@pytest.fixture(scope="session")
def tiny_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_home(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def server(tiny_home: Path) -> Iterator[Server]:
    with serve(tiny_home, tiny_home / "server.log") as server:
        yield server
