"""`vgg19 predict --engine ray`: the same function on the machines of a Ray cluster, by Ray Data.

Needs the extra `ray`. Where RAY_ADDRESS names no cluster, Ray runs on this machine for as long as
the command does.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from models.errors import UserError
from serving.offline import classify_files
from serving.prediction_files import PredictError, as_row
from serving.runtime import open_session, session_options, use_store
from serving.settings import Settings

# Files that a worker is given at once, in batches of the model: it decodes ahead within them.
_BATCHES_AT_ONCE = 8
_BLOCKS_A_WORKER = 4
# What workers on other machines are to know of this process's environment.
_SETTINGS = ("VGG19_", "BENTOML_HOME")


class Worker:
    """One actor: opens the model once, then classifies files.

    Args:
        threads: of the model and of decoding, the CPUs that Ray has set aside for it.
    """

    def __init__(self, settings: Settings, version: str, top_k: int, threads: int) -> None:
        use_store(settings)
        settings = settings.model_copy(
            update={"intra_op_threads": settings.intra_op_threads or threads}
        )
        # Ray shows each worker only the GPU that is its own.
        options = session_options(settings, worker_index=1)
        self._bundle, self._session = open_session(settings, options, version)
        self._acceptance = self._bundle.acceptance()
        self._batch_size = settings.max_batch_size
        self._top_k = top_k
        self._threads = threads

    def __call__(self, files: dict[str, Any]) -> dict[str, Any]:
        """Of a block of file names, the lines of `serving.prediction_files.Progress`."""
        found = classify_files(
            files["file"].tolist(),
            self._session.judge,
            self._bundle.spec,
            self._acceptance,
            top_k=self._top_k,
            batch_size=self._batch_size,
            threads=self._threads,
        )
        return {"line": np.array([json.dumps(as_row(one)) for one in found], object)}


def classify_on_ray(
    files: Sequence[str], settings: Settings, version: str, *, top_k: int, workers: int
) -> Iterator[dict[str, Any]]:
    """Rows of the table, as they come and in any order.

    Args:
        files: that all machines see under these names.
        version: of the model, in a store that all machines see as well.
        workers: 0: one on each machine.

    Raises:
        PredictError: Ray isn't installed, can't be reached, or a worker failed.
    """
    if not files:
        return
    ray = _ray()
    with _connected(ray):
        count = workers or sum(node["Alive"] for node in ray.nodes())
        resources = ray.cluster_resources()
        threads = max(1, int(resources.get("CPU", 1)) // count)
        data = ray.data.from_items(
            [{"file": file} for file in files],
            override_num_blocks=min(len(files), _BLOCKS_A_WORKER * count),
        )
        lines = data.map_batches(
            Worker,
            fn_constructor_args=(settings, version, top_k, threads),
            batch_size=_BATCHES_AT_ONCE * settings.max_batch_size,
            compute=ray.data.ActorPoolStrategy(size=count),
            num_cpus=threads,
            num_gpus=1 if settings.device != "cpu" and resources.get("GPU", 0) >= count else None,
        )
        try:
            for row in lines.iter_rows():
                yield json.loads(row["line"])
        except ray.exceptions.RayError as error:
            raise PredictError(f"a worker failed on Ray: {_reason(error)}") from None


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray.data  # optional
    except ImportError:
        raise PredictError(
            "Ray is not installed; install it with pip install 'vgg19-finetune[ray]'"
        ) from None
    return ray


@contextmanager
def _connected(ray: Any) -> Iterator[None]:
    """To the cluster that RAY_ADDRESS names, or to one of this machine alone."""
    variables = {name: value for name, value in os.environ.items() if name.startswith(_SETTINGS)}
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if "RAY_ADDRESS" in os.environ:
        options["runtime_env"] = {"env_vars": variables}
    else:
        options |= {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    try:
        ray.init(**options)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        address = os.environ.get("RAY_ADDRESS", "this machine")
        raise PredictError(f"Ray can't be had at {address}: {_reason(error)}") from None
    try:
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False  # there is one already
        yield
    finally:
        ray.shutdown()


def _reason(error: Exception) -> str:
    """In a line: Ray's own text holds the traceback of a worker."""
    cause = getattr(error, "cause", None)
    told = cause if isinstance(cause, UserError) else error
    lines = [line.strip() for line in str(told).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
