"""Graphs in ONNX Runtime."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from serving.engine.batch_sizes import LARGEST_BATCH, stack
from serving.engine.cuda import card
from serving.engine.mapped_weights import DISABLED_OPTIMIZER, with_mapped_weights
from serving.engine.options import SessionOptions
from serving.engine.providers import CUDA, SessionError

logger = logging.getLogger(__name__)


# What ONNX Runtime says of memory that it can't have: within its limit, and of the card.
_OUT_OF_MEMORY = ("failed to allocate memory", "available memory of", "out of memory")
# What ONNX Runtime says of a graph with nodes that the CUDA provider doesn't have.
_CAPTURE_NEEDS = "graph capture feature"
# Keys of ONNX Runtime's session options.
_WEIGHTS_PLACE = "session.model_external_initializers_file_folder_path"
_DISABLE_OPTIMIZERS = "optimization.disable_specified_optimizers"


class NotCapturable(SessionError):
    """Not all of a graph runs on the GPU, so it can't be captured."""


class OnnxRuntime:
    """Any provider of ONNX Runtime.

    Args:
        sizes: batch sizes to pad to, ascending; each is run once. Empty: none, and any is run.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        input_name: str,
        outputs: Sequence[str],
        image: tuple[int, int, int],
        sizes: Sequence[int],
    ) -> None:
        self._session = session
        self._input = input_name
        self._names = list(outputs)
        self.provider: str = session.get_providers()[0]
        self._sizes = sizes
        for size in sizes:  # so that no request pays for the first time
            self([np.zeros(image, np.uint8)] * size)

    def __call__(
        self, images: Sequence[NDArray[np.uint8]], options: ort.RunOptions | None = None
    ) -> list[NDArray[np.float32]]:
        count = len(images)
        batch = stack(images, next((size for size in self._sizes if size >= count), count))
        outputs = self._session.run(self._names, {self._input: batch}, options)
        return [values[:count] for values in outputs]


def inference_session(
    path: Path,
    options: SessionOptions,
    *,
    saves_memory: bool = False,
    cuda_graphs: bool = False,
) -> ort.InferenceSession:
    """A session of a graph that has been checked.

    Args:
        saves_memory: on the CPU, use the weights as they are mapped instead of arranging a copy,
            and keep nothing between runs: of VGG-19, 0.1 GB instead of 0.7, and a few percent
            slower (docs/benchmarks.md).
        cuda_graphs: by CUDA's provider, see `serving.engine.cuda`.

    Raises:
        SessionError: ONNX Runtime can't load it.
        NotCapturable: it can, but without `cuda_graphs`.
    """
    providers = list(options.providers)
    if cuda_graphs:
        providers = [(CUDA, providers[0][1] | {"enable_cuda_graph": "1"}), *providers[1:]]
    session_options = ort.SessionOptions()
    session_options.intra_op_num_threads = options.intra_op_threads
    # Between runs its threads sleep. Otherwise each looks for the next one for 30 ms, on a core
    # that others need: the event loop, and another model's session (docs/benchmarks.md).
    session_options.add_session_config_entry("session.force_spinning_stop", "1")
    if options.on_cpu:
        # The arena, which is on, keeps what the largest batch took, and so saves its page faults: 5
        # to 8% of the time. Blocks planned for each batch size only cut it up: 812 MB for 753
        # (docs/benchmarks.md).
        session_options.enable_mem_pattern = False
        session_options.add_session_config_entry(_WEIGHTS_PLACE, str(path.parent))
        session_options.add_session_config_entry(_DISABLE_OPTIMIZERS, DISABLED_OPTIMIZER)
        if saves_memory:
            session_options.enable_cpu_mem_arena = False
            session_options.add_session_config_entry("session.disable_prepacking", "1")
    else:
        ort.preload_dlls()  # finds CUDA and cuDNN installed as pip packages
    try:
        graph = with_mapped_weights(path) if options.on_cpu else None
        with card.using():
            session = ort.InferenceSession(graph or path, session_options, providers=providers)
    except Exception as error:
        if cuda_graphs and _CAPTURE_NEEDS in str(error):
            raise NotCapturable(str(error)) from error
        raise refusal(path, error, options) from error
    if session.get_providers()[0] != options.providers[0][0]:
        logger.warning(
            "%s did not start: the model runs on %s",
            options.providers[0][0],
            session.get_providers()[0],
        )
    return session


def refusal(path: Path, error: Exception, options: SessionOptions) -> SessionError:
    """What is said of a graph that ONNX Runtime can't load, or run for the first time."""
    text = " ".join(str(error).split())
    if any(words in text.lower() for words in _OUT_OF_MEMORY):
        limit = options.gpu.mem_limit_bytes
        advice = f"raise VGG19_GPU_MEM_LIMIT ({limit} bytes)" if limit else "free some of it"
        return SessionError(
            f"the GPU has too little memory for {path.name} with batches of up to "
            f"{options.max_batch_size or LARGEST_BATCH}: {advice}, or lower VGG19_MAX_BATCH_SIZE"
        )
    logger.error("ONNX Runtime can't load %s", path, exc_info=error)
    return SessionError(f"ONNX Runtime can't load {path}: {text[:200]}")
