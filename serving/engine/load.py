"""Loads a graph of a bundle on the engine that was chosen for it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from models.bundle.bundle import FEATURES_OUTPUT, Bundle
from models.bundle.ncnn_graph import NcnnGraph
from models.bundle.openvino_graph import OpenVinoGraph, computes_in_bf16
from models.bundle.variants import Variant
from serving.engine.batch_sizes import batch_buckets
from serving.engine.choice import Choice
from serving.engine.cuda import CudaGraphs
from serving.engine.graph_check import check_graph
from serving.engine.ncnn import Ncnn
from serving.engine.onnxruntime import NotCapturable, OnnxRuntime, inference_session, refusal
from serving.engine.openvino import OpenVino
from serving.engine.options import SessionOptions
from serving.engine.providers import CUDA, TENSORRT, Provider

logger = logging.getLogger(__name__)


class Engine(Protocol):
    """Runs a graph on 1..N images, uint8[S,S,3] each: float32[N,C] and, where the bundle has
    distances, what FC2 gives, float32[N,4096]. `provider`: on what. From several threads.

    `options` can end a run of ONNX Runtime on the CPU; elsewhere they are ignored.
    """

    provider: str

    def __call__(
        self, images: Sequence[NDArray[np.uint8]], options: ort.RunOptions | None = None
    ) -> list[NDArray[np.float32]]: ...


def load_engine(
    bundle: Bundle,
    choice: Choice,
    options: SessionOptions,
    max_batch_size: int,
    *,
    saves_memory: bool = False,
) -> Engine:
    """What runs a choice (without its `second`).

    Args:
        saves_memory: instead of time: the second of a cascade runs a few images only.

    Raises:
        SessionError, BundleError: see `Session`.
    """
    path, variant = bundle.graph_path(choice.variant), choice.variant
    if variant is not None:
        logger.info("running the model's variant %s", variant.name)
    if choice.engine == "ncnn":
        return Ncnn(NcnnGraph(path, bundle.spec, options.intra_op_threads))
    check_graph(path)
    if choice.engine == "openvino":
        wanted, threads = _wanted_outputs(bundle), options.intra_op_threads
        return OpenVino(OpenVinoGraph(path, wanted, threads, bf16=_in_bf16(variant)))
    side = bundle.spec.preprocessing.image_size
    image, input_name = (side, side, 3), bundle.spec.input_name
    session, captures = _session_of(path, options, saves_memory=saves_memory)
    outputs = _outputs(session, bundle)
    if captures:
        sizes = batch_buckets(max_batch_size)
        try:
            return CudaGraphs(session, input_name, image, outputs, sizes, options.gpu.device_id)
        except Exception as error:
            raise refusal(path, error, options) from error
    sizes = _sizes_to_pad_to(session.get_providers()[0], max_batch_size)
    return OnnxRuntime(session, input_name, list(outputs), image, sizes)


def _in_bf16(variant: Variant | None) -> bool:
    """Whether OpenVINO computes in bfloat16 what isn't int8: as the variant was judged.

    A processor without bfloat16 computes that in float32: less is rounded, and int8 was judged with
    float32 as well, on ONNX Runtime.
    """
    if variant is None:
        return False
    return variant.name == "bf16" or (variant.rest_in_bf16 and computes_in_bf16())


def _session_of(
    path: Path, options: SessionOptions, *, saves_memory: bool
) -> tuple[ort.InferenceSession, bool]:
    """A session, and whether it captures CUDA graphs. They need all of the graph on the card."""
    if options.providers[0][0] == CUDA:
        try:
            session = inference_session(path, options, cuda_graphs=True)
            return session, session.get_providers()[0] == CUDA
        except NotCapturable:
            logger.warning("the model runs without CUDA graphs: not all of it runs on the GPU")
    session = inference_session(
        path,
        options,
        saves_memory=options.on_cpu and saves_memory,
    )
    return session, False


def _outputs(session: ort.InferenceSession, bundle: Bundle) -> dict[str, int]:
    """The outputs that are asked for -> their values for each image."""
    widths = {output.name: output.shape[-1] for output in session.get_outputs()}
    return {name: widths[name] for name in _wanted_outputs(bundle) if name in widths}


def _wanted_outputs(bundle: Bundle) -> list[str]:
    """Of the graph, if it has them (probabilities it has)."""
    distances = [FEATURES_OUTPUT] if bundle.distance_path is not None else []
    return [bundle.spec.output_name, *distances]


def _sizes_to_pad_to(provider: Provider, max_batch_size: int) -> list[int]:
    """Padding saves TensorRT an engine for each size, and CUDA's provider new plans (see
    `serving.engine.cuda`), of which it keeps one; on the CPU it would only cost time."""
    if provider == CUDA:
        return [max_batch_size]
    return batch_buckets(max_batch_size) if provider == TENSORRT else []
