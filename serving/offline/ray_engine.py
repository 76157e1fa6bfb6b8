"""Classifies image files on the machines of a Ray cluster, each with the service's own session.

Images and models don't travel: every machine opens them under the same paths. What Ray carries is
names of files out and rows back, so its object store may be small. Needs the extra `ray`.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import secrets
import signal
import socket
import sys
import tempfile
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager, suppress
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from models.bundle.bundle import Bundle
from models.bundle.variants import Variant
from models.errors import UserError
from models.extras import install_command
from models.machine import cpu_count
from models.registry import store
from serving.engine.batch_sizes import LARGEST_BATCH
from serving.engine.choice import Machine, choose_variant
from serving.engine.providers import GpuOptions
from serving.engine.session import Session
from serving.loading import open_session, session_options, use_store
from serving.offline.files import PredictError, classify_files
from serving.offline.table import as_row
from serving.settings import Settings

_ADDRESS = "RAY_ADDRESS"
_ANSWER_S = 10
_BATCHES = 4  # in one task: while all but the first are decoded, the model runs
_RESTARTS = 3  # of a worker that died; for ever, which is Ray's way, a fatal image would kill it
_OBJECT_STORE_BYTES = 100_000_000  # little more than the least that Ray takes
# Of a cluster that is started here and ends with the command. Ray executes what it is sent, so it
# listens on 127.0.0.1 alone (what it calls "no cluster") and asks other users for a token.
_LOCAL = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}


@dataclass(frozen=True)
class Job:
    """What a worker needs, on whichever machine, to do what the local engine would.

    Args:
        settings: the command's, with the threads that the worker has reserved.
        store: the model store's directory.
        folder: that relative names of files start from.
        witness: a file that is there, for a machine to find out whether it sees the images.
    """

    settings: Settings
    store: Path
    version: str
    top_k: int
    folder: Path
    witness: str


class Worker:
    """Opens the session once, then classifies lists of files.

    What is wrong is an answer, not an exception: Ray would try again, and tell it in a hundred
    lines.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._opened: tuple[Bundle, Session] | None = None
        self._problem = ""
        try:
            self._open()
        except (UserError, OSError) as error:
            self._problem = f"{platform.node()}: {error}"

    def __call__(self, batch: Mapping[str, NDArray[Any]]) -> Iterator[dict[str, NDArray[Any]]]:
        """`file`, names as JSON -> `row`, of the table, as JSON, of the same length."""
        if self._opened is None:
            lines = [json.dumps({"problem": self._problem})]
        else:
            bundle, session = self._opened
            settings = self._job.settings
            found = classify_files(
                [json.loads(name) for name in batch["file"]],
                session.judge,
                bundle.spec,
                bundle.acceptance(),
                top_k=self._job.top_k,
                batch_size=session.max_batch_size,
                threads=settings.decode_threads or settings.intra_op_threads,
            )
            lines = [json.dumps(as_row(one)) for one in found]
        yield {"row": np.array(lines, dtype=object)}

    def _open(self) -> None:
        job = self._job
        with suppress(OSError):  # where all names are absolute, it may be missing
            os.chdir(job.folder)
        if job.witness and not Path(job.witness).is_file():
            raise PredictError(
                f"there is no {Path(job.witness).absolute()} here; images must lie under the same "
                "path on every machine (a network file system)"
            )
        use_store(job.settings.model_copy(update={"store": job.store}))
        options = session_options(job.settings, worker_index=1)
        self._opened = open_session(job.settings, options, job.version)


class RayEngine:
    """As `serving.offline.predict.LocalEngine`, with workers of a Ray cluster: the one that
    RAY_ADDRESS names, else one that is started on this machine and ends with the command.

    Args:
        workers: 0: one on each machine, or for each GPU; more where VGG19_INTRA_OP_THREADS lets
            more fit.

    Raises:
        PredictError: Ray isn't installed.
    """

    def __init__(self, settings: Settings, workers: int) -> None:
        # A worker on a GPU reserves it; nobody else gives one to it.
        device = "cuda" if settings.device == "cuda" else "cpu"
        self._settings = settings.model_copy(update={"device": device})
        self._workers = workers
        self._ray = _import_ray()

    def variant(self, bundle: Bundle) -> Variant | None:
        """What the workers will run, which may have a GPU where this machine has none."""
        settings = self._settings
        gpu = GpuOptions(precision=settings.precision, tensorrt=settings.tensorrt)
        engine = settings.cpu_engine if settings.device == "cpu" else None
        return choose_variant(gpu, bundle.variants(), engine, Machine()).variant

    def classify(
        self, files: Sequence[str], version: str, bundle: Bundle, top_k: int
    ) -> Generator[dict[str, Any]]:
        """Rows of the table, as tasks end, in no order.

        Args:
            bundle: of that version. Workers check the graph that they run.

        Raises:
            PredictError: no such cluster or no room in it, or a worker can't do its part.
        """
        if not files:
            return
        with _cluster(self._ray) as nodes:
            on_gpu = self._settings.device == "cuda"
            workers, threads = plan(
                nodes, self._workers, self._settings.intra_op_threads, on_gpu=on_gpu
            )
            job = Job(
                settings=self._settings.model_copy(update={"intra_op_threads": threads}),
                store=store.store_path().absolute(),
                version=version,
                top_k=top_k,
                folder=Path.cwd(),
                witness=next((file for file in files if Path(file).is_file()), ""),
            )
            yield from self._stream(files, job, workers, int(on_gpu))

    def _stream(
        self, files: Sequence[str], job: Job, workers: int, gpus: int
    ) -> Iterator[dict[str, Any]]:
        largest = _BATCHES * (job.settings.max_batch_size or LARGEST_BATCH)
        at_once = min(largest, ceil(len(files) / workers))
        data = self._ray.data
        rows = data.from_items(
            # As JSON, since names need not be UTF-8 and Arrow's strings are.
            [{"file": json.dumps(file)} for file in files],
            override_num_blocks=ceil(len(files) / at_once),
        ).map_batches(
            Worker,
            batch_size=None,
            fn_constructor_args=(job,),
            compute=data.ActorPoolStrategy(size=workers),
            num_cpus=job.settings.intra_op_threads,
            num_gpus=gpus,
            ray_remote_args_fn=_restarts,
        )
        try:
            for batch in rows.iter_batches(batch_size=None, prefetch_batches=0):
                yield from _from_lines(batch["row"])
        except self._ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None)
            what = f"{type(cause).__name__}: {cause}" if cause else "it died, several times"
            raise PredictError(
                f"a worker failed ({_one_line(what)}); its log is on its machine in "
                f"{tempfile.gettempdir()}/ray/session_latest/logs. Finished rows are "
                "kept; run the same command again to continue"
            ) from None


def plan(
    nodes: Iterable[Mapping[str, float]], workers: int, threads: int, *, on_gpu: bool
) -> tuple[int, int]:
    """How many workers, and how many threads, each of which is a CPU reserved.

    Args:
        nodes: Ray's resources of each machine.
        workers: 0: on each machine one, or one for each GPU; and more where there is room.
        threads: 0: as many as fit.

    Raises:
        PredictError: that many don't fit.
    """
    rooms = [(int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in nodes]
    rooms = [(cpus, gpus) for cpus, gpus in rooms if cpus and (gpus or not on_gpu)]

    def fitting(threads: int) -> int:
        return sum(min(cpus // threads, gpus if on_gpu else cpus) for cpus, gpus in rooms)

    usual = 1 if threads else sum(gpus if on_gpu else 1 for _, gpus in rooms)
    wanted = max(1, workers or usual)
    most = max((cpus for cpus, _ in rooms), default=0)
    for each in [threads] if threads else range(most, 0, -1):
        if fitting(each) >= wanted:
            return workers or fitting(each), each
    what = "GPUs and CPUs" if on_gpu else "CPUs"
    raise PredictError(
        f"{wanted} workers of {threads or 1} threads don't fit the Ray cluster's {what} "
        f"({', '.join(f'{c} CPUs {g} GPUs' for c, g in rooms) or 'none'}); lower --workers or "
        "VGG19_INTRA_OP_THREADS"
    )


@contextmanager
def own_terminal() -> Iterator[Console]:
    """A console on the terminal to which, until this ends, nobody else writes: Ray's threads and
    its C++ do so whatever its options say."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        with os.fdopen(os.dup(kept[0]), "w") as terminal:
            yield Console(file=terminal)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, descriptor in enumerate(kept, start=1):
            os.dup2(descriptor, number)
            os.close(descriptor)


def _import_ray() -> Any:
    """Ray, with `ray.data`; what it reads when it is imported is set before."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"  # or it warns that it will be
    if not _address():
        os.environ.update(_LOCAL, RAY_AUTH_TOKEN=secrets.token_hex(32))
    try:
        import ray
        import ray.data
    except ImportError:
        raise PredictError(
            f"Ray is not installed; install it with {install_command('ray')}, or classify on this "
            " machine with --engine local"
        ) from None
    return ray


@contextmanager
def _cluster(ray: Any) -> Iterator[list[Mapping[str, float]]]:
    """From connected to disconnected; the resources of each machine."""
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        _connect(ray)
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray puts its own there
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        yield [node["Resources"] for node in ray.nodes() if node["Alive"]]
    finally:
        ray.shutdown()


def _connect(ray: Any) -> None:
    address = _address()
    here: dict[str, Any] = {
        "num_cpus": cpu_count(),
        "object_store_memory": _OBJECT_STORE_BYTES,
        "include_dashboard": False,
        "_node_ip_address": "127.0.0.1",
    }
    options = {} if address else here
    try:
        if address not in ("", "auto"):
            _check_answers(address)
        # Workers import from the directory that this is called in: not from a user's.
        with chdir(Path(__file__).parents[2]):
            ray.init(
                address or "local", log_to_driver=False, logging_level=logging.ERROR, **options
            )
    except (OSError, RuntimeError, ValueError) as error:
        why = _one_line(str(error))
        if "AuthenticationError" in str(error.__cause__):
            why = "it asks for a token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH"
        where = address or "this machine"
        raise PredictError(f"Ray can't be reached at {where}: {why}") from None


def _check_answers(address: str) -> None:
    """Ray itself would wait for minutes where nobody listens. Raises OSError or ValueError."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdecimal():
        raise ValueError("it must be HOST:PORT, as 'ray start --head' shows it, or auto")
    with socket.create_connection((host, int(port)), _ANSWER_S):
        pass


def _address() -> str:
    """Of the cluster; empty: one is to be started here."""
    address = os.environ.get(_ADDRESS, "")
    return "" if address == "local" else address


def _restarts() -> dict[str, int]:
    return {"max_restarts": _RESTARTS, "max_task_retries": _RESTARTS}


def _from_lines(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    for row in map(json.loads, lines):
        if "problem" in row:
            raise PredictError(row["problem"])
        yield row


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]
