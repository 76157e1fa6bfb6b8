"""Each reach into BentoML works with the release that is installed, and says so if it doesn't."""

from __future__ import annotations

import os
import re
import signal
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bentoml
import circus.arbiter
import circus.exc
import circus.sighandler
import pytest
import uvicorn
from bentoml._internal import models as bentoml_models
from bentoml._internal.configuration.containers import BentoMLContainer

from models import bentoml_adapter as adapter
from models.bentoml_adapter import BentoMLChanged
from serving.http import openapi

ROOT = Path(__file__).parents[2]
CONTAINER: Any = type(BentoMLContainer)
HANDLER = circus.sighandler.SysHandler


@pytest.fixture
def own_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done to circus is undone."""
    monkeypatch.setattr(HANDLER, "signal", HANDLER.signal)
    monkeypatch.setattr(HANDLER, "SIGNALS", HANDLER.SIGNALS)


def test_the_store(tmp_path: Path) -> None:
    before = adapter.store_directory()
    adapter.choose_store_directory(tmp_path)
    try:
        assert adapter.store_directory() == tmp_path
    finally:
        adapter.choose_store_directory(None)
    assert adapter.store_directory() == before
    assert adapter.model_store(tmp_path).list() == []


def test_the_tracer(monkeypatch: pytest.MonkeyPatch) -> None:
    assert adapter.tracer() is None
    provider = SimpleNamespace(get_tracer=lambda name: f"tracer of {name}")
    otlp = SimpleNamespace(exporter_type=SimpleNamespace(get=lambda: "otlp"))
    monkeypatch.setattr(CONTAINER, "tracing", otlp)
    monkeypatch.setattr(CONTAINER, "tracer_provider", SimpleNamespace(get=lambda: provider))
    assert adapter.tracer() == "tracer of vgg19"


def test_swagger_files_are_those_of_the_page() -> None:
    assert [file.name for file in adapter.swagger_files()] == list(adapter.SWAGGER_FILES)
    named = re.findall(rf'"{adapter.SWAGGER_PATH}/([^"]+)"', openapi._PAGE)
    assert named == list(adapter.SWAGGER_FILES)


@pytest.mark.usefixtures("own_signals")
def test_signals_come_with_the_way_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(HANDLER, "quit", lambda self: asked.append("quit"))
    came: list[int] = []

    def on_signal(number: int, stop: Callable[[], None]) -> None:
        came.append(number)
        stop()

    adapter.take_signals(on_signal)
    before = {number: signal.getsignal(number) for number in HANDLER.SIGNALS}
    handler = HANDLER(SimpleNamespace())  # as circus makes it
    try:
        assert {signal.SIGTERM, signal.SIGINT, signal.SIGHUP} <= before.keys()
        assert adapter.FAILED_SIGNAL not in before  # ours
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.raise_signal(number)
    finally:
        handler.stop()
        for number, old in before.items():
            signal.signal(number, old)
    assert (came, asked) == ([signal.SIGTERM, signal.SIGHUP], ["quit", "quit"])


# What `bentoml serve` does with its workers, but for circus's looking after them every ten seconds.
_FIRST_PROCESS = """
import sys
from bentoml._internal.utils.circus import create_standalone_arbiter
from circus.watcher import Watcher
from models.bentoml_adapter import restart_at_once
restart_at_once()
worker = [sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(600)"]
watcher = Watcher("worker", worker[0], args=worker[1:], numprocesses=2, copy_env=True)
create_standalone_arbiter([watcher], check_delay=3600).start()
"""


def test_workers_that_are_killed_are_replaced_at_once() -> None:
    """Not when circus looks the next time. Two at once, since it does one thing at a time."""
    command = [sys.executable, "-c", _FIRST_PROCESS]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        try:
            workers = [int(first.stdout.readline()) for _ in range(2)]
            for worker in workers:
                os.kill(worker, signal.SIGKILL)
            others = [int(first.stdout.readline()) for _ in range(2)]  # pytest's time limit
        finally:
            first.terminate()
    assert not set(workers) & set(others)
    assert first.returncode == 0


def test_the_https_server(monkeypatch: pytest.MonkeyPatch) -> None:
    assert adapter.http_server_config() is None
    monkeypatch.setattr(sys, "argv", ["worker", "--ssl-certfile", "x"])
    with pytest.raises(BentoMLChanged):
        adapter.http_server_config()
    config = uvicorn.Config(app="none")
    config.ssl = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server = uvicorn.Server(config)
    assert adapter.http_server_config() is server.config


def test_the_worker() -> None:
    assert adapter.worker_index() is None
    bentoml.server_context.worker_index = 3
    try:
        assert adapter.worker_index() == 3
    finally:
        bentoml.server_context.worker_index = None


GONE: list[tuple[Any, str, Callable[[], Any]]] = [
    (CONTAINER, "model_store_dir", adapter.store_directory),
    (CONTAINER, "model_store_dir", lambda: adapter.choose_store_directory(None)),
    (bentoml_models, "ModelStore", lambda: adapter.model_store(Path())),
    (CONTAINER, "tracing", adapter.tracer),
    (HANDLER, "signal", lambda: adapter.take_signals(lambda *_: None)),
    (HANDLER, "quit", lambda: adapter.take_signals(lambda *_: None)),
    (HANDLER, "SIGNALS", lambda: adapter.take_signals(lambda *_: None)),
    (circus.sighandler, "SysHandler", lambda: adapter.take_signals(lambda *_: None)),
    (HANDLER, "SIGNALS", adapter.restart_at_once),
    (circus.exc, "ConflictError", adapter.restart_at_once),
    (circus.arbiter.Arbiter, "manage_watchers", adapter.restart_at_once),
    (uvicorn, "Server", adapter.http_server_config),
    (adapter, "_WORKER_MODULE", adapter.worker_module),
    (type(bentoml.server_context), "worker_index", adapter.worker_index),
    (adapter, "SWAGGER_FILES", adapter.swagger_files),
]


@pytest.mark.usefixtures("own_signals")
@pytest.mark.parametrize(("place", "name", "reach"), GONE, ids=[name for _, name, _ in GONE])
def test_what_a_release_has_no_longer_is_named(
    place: Any, name: str, reach: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["worker", "--ssl-certfile=x"])
    if place is adapter:
        of_tomorrow = {
            "SWAGGER_FILES": ("swagger-ui-of-tomorrow.js",),
            "_WORKER_MODULE": "_bentoml_impl.of.tomorrow",
        }
        monkeypatch.setattr(adapter, name, of_tomorrow[name])
    elif place is type(bentoml.server_context):
        monkeypatch.setattr(bentoml, "server_context", SimpleNamespace())
    else:
        monkeypatch.delattr(place, name)
    words = (
        rf"^BentoML {re.escape(bentoml.__version__)} has no .*, which this project needs to .*; "
    )
    with pytest.raises(BentoMLChanged, match=words + "install the release of BentoML that req"):
        reach()


def test_nothing_else_reaches_in_there() -> None:
    """Neither by an import nor by a name in a text."""
    private = re.compile(
        r"\bbentoml\._internal\b|from bentoml import _|\b_bentoml_(impl|sdk)\b"
        r"|(import|from) circus\b|\bcircus\."
    )
    folders = [
        folder
        for folder in ROOT.iterdir()
        if folder.is_dir()
        and not folder.name.startswith(".")
        and folder.name != "build"
        and not (folder / "pyvenv.cfg").exists()  # somebody's virtual environment
    ]
    files = [*ROOT.glob("*.py"), *(file for folder in folders for file in folder.rglob("*.py"))]
    assert len(files) > 500
    reaching = {
        file.name
        for file in files
        if any(private.search(line.split("#")[0]) for line in file.read_text().splitlines())
    }
    # The last one needs BentoML's own sampler, to see that spans get by with it.
    assert reaching == {"bentoml_adapter.py", "test_bentoml_adapter.py", "test_telemetry.py"}
