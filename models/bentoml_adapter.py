"""Everything of BentoML, and of the circus and uvicorn that it runs, that isn't in its documents.

Each reach is a function of its own, which says what it needs when a release has it no longer;
`tests/models/test_bentoml_adapter.py` tries each. Nothing else of this project reaches in there.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import signal
import ssl
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from models.errors import UserError

# Another signal than those of circus: a worker tells by it that the service failed. Circus leaves
# it alone, but for not letting it interrupt system calls.
FAILED_SIGNAL = signal.SIGUSR1
# How soon a worker that ended is looked for again while circus is busy. Far below a start.
_LOOK_AGAIN_S = 0.2
# Swagger UI's files, which BentoML serves below this path.
SWAGGER_PATH = "static_content"
# What a worker process runs, `python -m ...`.
_WORKER_MODULE = "_bentoml_impl.worker.service"
SWAGGER_FILES = ("swagger-ui.css", "swagger-ui-bundle.js")


class BentoMLChanged(UserError):
    """The BentoML that is installed isn't as the one that this project was made for."""


def _reach(module: str, *names: str, why: str) -> Any:
    """An attribute of a module that isn't public."""
    try:
        found = importlib.import_module(module)
        for name in names:
            found = getattr(found, name)
    except (ImportError, AttributeError):
        raise _changed(".".join((module, *names)), why) from None
    return found


def _changed(what: str, why: str) -> BentoMLChanged:
    return BentoMLChanged(
        f"BentoML {version('bentoml')} has no {what}, which this project needs to {why}; install "
        "the release of BentoML that requirements.lock names, or adapt models/bentoml_adapter.py"
    )


def _container(name: str, why: str) -> Any:
    return _reach("bentoml._internal.configuration.containers", "BentoMLContainer", name, why=why)


def store_directory() -> Path:
    """Where BentoML keeps models: `$BENTOML_HOME/models`, by default `~/bentoml/models`."""
    return Path(_container("model_store_dir", "find the model store").get())


def choose_store_directory(directory: Path | None) -> None:
    """Another one for this process, as `$BENTOML_HOME` chooses it; None: that again."""
    provider = _container("model_store_dir", "choose a model store")
    if directory is None:
        provider.reset()
    else:
        provider.set(str(directory))


def model_store(directory: Path) -> Any:
    """BentoML's model store in a directory, with `list` and what `bentoml.models.create` needs."""
    return _reach("bentoml._internal.models", "ModelStore", why="list and register models")(
        directory
    )


def tracer() -> Any:
    """Of BentoML's tracing; None unless its configuration names an exporter."""
    why = "continue its traces"
    exporter = _reach(
        "bentoml._internal.configuration.containers",
        *("BentoMLContainer", "tracing", "exporter_type"),
        why=why,
    )
    if exporter.get() is None:
        return None
    return _container("tracer_provider", why).get().get_tracer("vgg19")


def swagger_files() -> list[Path]:
    """The files of Swagger UI that the page of the interface loads from BentoML."""
    package = Path(_reach("bentoml", "__file__", why="find Swagger UI's files")).parent
    folder = package / "_internal" / "server" / "static_content"
    files = [folder / name for name in SWAGGER_FILES]
    for file in files:
        if not file.is_file():
            raise _changed(f"file {file.relative_to(package)}", "show the interface at /docs")
    return files


def take_signals(on_signal: Callable[[int, Callable[[], None]], None]) -> None:
    """In the first process, before it starts workers: have signals come here and not to circus.

    Circus drops what it is told while it does something else, a SIGTERM during a reload as well.

    Args:
        on_signal: is given the signal and what asks circus to stop all workers and end. That may be
            called from any thread, and again until it works.
    """
    why = "end when it is told to"
    handler = _reach("circus.sighandler", "SysHandler", why=why)
    for name in ("signal", "quit", "SIGNALS"):
        _reach("circus.sighandler", "SysHandler", name, why=why)
    handler.signal = lambda self, number, frame=None: on_signal(number, self.quit)


def restart_at_once() -> None:
    """In the first process, before it starts workers: have a worker that ended replaced at once.

    BentoML has circus look every ten seconds (`check_delay`), so a service of one worker was gone
    for as long, in addition to its start. Circus goes on looking every ten seconds, too.
    """
    why = "replace a worker that was killed"
    handler = _reach("circus.sighandler", "SysHandler", why=why)
    signals = _reach("circus.sighandler", "SysHandler", "SIGNALS", why=why)
    conflict = _reach("circus.exc", "ConflictError", why=why)
    _reach("circus.arbiter", "Arbiter", "manage_watchers", why=why)
    others = handler.signal

    async def look(controller: Any) -> None:
        watchers = controller.arbiter.iter_watchers()
        if not all(not watcher.is_stopped() and len(watcher) for watcher in watchers):
            return  # no worker has been started yet, which circus would take for the end
        try:
            await controller.arbiter.manage_watchers()
        except conflict:  # it does something else, such as replacing another worker
            controller.loop.call_later(_LOOK_AGAIN_S, look, controller)

    def on_signal(self: Any, number: int, frame: Any = None) -> None:
        if number == signal.SIGCHLD:
            self.controller.loop.add_callback_from_signal(look, self.controller)
        else:
            others(self, number, frame)

    handler.SIGNALS = [*signals, signal.SIGCHLD]
    handler.signal = on_signal


def http_server_config() -> Any:
    """In a worker: the `uvicorn.Config` of its HTTP server; None where it doesn't speak TLS.

    BentoML gives it to nobody, so it is looked for among the objects that there are.
    """
    if not any(argument.startswith("--ssl-certfile") for argument in sys.argv):
        return None
    server_class = _reach("uvicorn", "Server", why="renew the certificate of HTTPS")
    for thing in gc.get_objects():
        if type(thing) is server_class and getattr(thing.config, "ssl", None) is not None:
            return thing.config
    raise _changed("uvicorn.Server with a loaded certificate", "renew the certificate of HTTPS")


def fresh_tls(config: Any) -> ssl.SSLContext:
    """What uvicorn would make of its files now. Raises OSError: they can't be used."""
    make = _reach("uvicorn.config", "create_ssl_context", why="renew the certificate of HTTPS")
    context: ssl.SSLContext = make(
        certfile=config.ssl_certfile,
        keyfile=config.ssl_keyfile,
        password=config.ssl_keyfile_password,
        ssl_version=config.ssl_version,
        cert_reqs=config.ssl_cert_reqs,
        ca_certs=config.ssl_ca_certs,
        ciphers=config.ssl_ciphers,
    )
    return context


def worker_module() -> str:
    """Which module a worker process runs: by it a worker is told from BentoML's other processes."""
    try:
        found = importlib.util.find_spec(_WORKER_MODULE)
    except ModuleNotFoundError:  # not even the package
        found = None
    if found is None:
        raise _changed(_WORKER_MODULE, "find its workers")
    return _WORKER_MODULE


def worker_index() -> int | None:
    """Which worker of the service this process is, from 1; None in the first process."""
    index = _reach("bentoml", "server_context", "worker_index", why="know its workers")
    return None if index is None else int(index)
