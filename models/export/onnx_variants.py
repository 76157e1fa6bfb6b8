"""model.onnx -> smaller or faster graphs with the same inputs and outputs, and how near they are.

Needs onnx, but no torch.
"""

from __future__ import annotations

import itertools
import logging
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

from models.bundle.bundle import FEATURES_OUTPUT, graph_files
from models.bundle.ncnn_graph import NcnnGraph
from models.bundle.openvino_graph import OpenVinoGraph
from models.bundle.spec import ModelSpec
from models.bundle.variants import CpuEngine, VariantName
from models.export.float16 import float16
from models.export.int8 import int8
from models.export.ncnn_export import write_ncnn
from models.machine import cpu_count

# Weights that share a scale. 8 bits are precise enough for 128 of them; 4 bits need smaller groups.
_BLOCK_SIZE = {8: 128, 4: 32}
# MatMulNBits' name for int8 activations, made as they come: without them the 8-bit product unpacks
# its weights for each image (0.88 s against 0.27 s an image, measured).
_INT8_ACTIVATIONS = 4

_BATCH = 8
# ONNX Runtime's threads spin for a while after a run, on the cores that another graph then needs.
_PAUSE_S = 0.1


def make_variant(
    name: VariantName, source: Path, target: Path, spec: ModelSpec, images: NDArray[np.uint8]
) -> None:
    """Write a variant of the float32 graph `source`.

    Args:
        images: uint8[N,S,S,3] that training has seen: `int8` and `fp16` look at their activations.
    """
    if name == "bf16":
        return  # it is the float32 graph
    if name == "ncnn":
        write_ncnn(source, target)
        return
    makers: dict[VariantName, Callable[[], onnx.ModelProto]] = {
        "fc8": lambda: _fully_connected_in(8, source),
        "fc4": lambda: _fully_connected_in(4, source),
        "fp16": lambda: float16(source, spec, images),
        "int8": lambda: int8(source, spec, images),
    }
    with _quiet():
        onnx.save_model(makers[name](), target)


@dataclass(frozen=True)
class Form:
    """A graph, and what runs it; `saves_memory`: as the second one of a cascade, on ONNX Runtime
    with its weights as they are mapped."""

    path: Path
    engine: CpuEngine = "onnxruntime"
    bf16: bool = False
    saves_memory: bool = False

    @classmethod
    def of(cls, name: VariantName, bundle: Path) -> Form:
        """A variant of a bundle, on the engine that it is made for."""
        engines: dict[str, CpuEngine] = {"ncnn": "ncnn", "bf16": "openvino"}
        path = bundle / graph_files(name)[0]
        return cls(path, engines.get(name, "onnxruntime"), bf16=name == "bf16")


@dataclass(frozen=True)
class Agreement:
    """Between two graphs: on how many images the top-1 is the same, 0..1, and the largest
    difference in any probability. accepted: on how many both are to be trusted or neither, 0..1;
    max_distance_difference: in any distance from the training images, of which 1 is the limit, and
    beyond it by float32's distance. None each where the bundle has no such thing."""

    top1: float
    max_probability_difference: float
    accepted: float | None = None
    max_distance_difference: float | None = None


@dataclass(frozen=True)
class Answers:
    """Of N images. probabilities: float32[N,C]. features: what the head reads, float32[N,K]; None
    of a graph that doesn't give them."""

    probabilities: NDArray[np.float32]
    features: NDArray[np.float32] | None


def answers(form: Form, spec: ModelSpec, images: NDArray[np.uint8]) -> Answers:
    """What a graph answers on the CPU, of uint8[N,S,S,3]."""
    graph = _load(form, [spec.output_name, FEATURES_OUTPUT], spec)
    batches = [images[start : start + _BATCH] for start in range(0, len(images), _BATCH)]
    found, *features = (np.concatenate(values) for values in zip(*map(graph, batches), strict=True))
    return Answers(found, features[0] if features else None)


def probabilities(form: Form, spec: ModelSpec, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """As `answers`, without features."""
    return answers(form, spec, images).probabilities


def agreement(expected: NDArray[np.float32], actual: NDArray[np.float32]) -> Agreement:
    """Compare float32[N,C] with float32[N,C]; NaN agrees with nothing."""
    same = (expected.argmax(axis=1) == actual.argmax(axis=1)) & np.isfinite(actual).all(axis=1)
    return Agreement(float(same.mean()), float(np.abs(expected - actual).max()))


@dataclass(frozen=True)
class Speed:
    """Of a graph on this machine's CPU: seconds to load it, and per image at batch 1 and 8."""

    load_s: float
    batch1_s: float
    batch8_s: float


def measure_speed(forms: Mapping[str, Form], spec: ModelSpec, rounds: int = 5) -> dict[str, Speed]:
    """Time graphs in turns, so that what else the machine does hits all alike; medians."""
    size = spec.preprocessing.image_size
    batch = np.random.default_rng(0).integers(0, 256, (_BATCH, size, size, 3), dtype=np.uint8)
    loaded, load_s = {}, {}
    for name, form in forms.items():
        started = time.perf_counter()
        loaded[name] = _load(form, [spec.output_name], spec)
        load_s[name] = time.perf_counter() - started
    times: dict[tuple[str, int], list[float]] = {
        key: [] for key in itertools.product(forms, (1, 8))
    }
    for round_, (name, count) in itertools.product(range(rounds + 1), times):
        time.sleep(_PAUSE_S)
        started = time.perf_counter()
        loaded[name](batch[:count])
        if round_:  # the first one warms up
            times[name, count].append((time.perf_counter() - started) / count)
    return {
        name: Speed(
            load_s[name],
            statistics.median(times[name, 1]),
            statistics.median(times[name, _BATCH]),
        )
        for name in forms
    }


# uint8[N,S,S,3] -> float32[N,...] for each output that is wanted and that the graph has.
_Graph = Callable[[NDArray[np.uint8]], Sequence[NDArray[np.float32]]]


def _load(form: Form, wanted: Sequence[str], spec: ModelSpec) -> _Graph:
    if form.engine == "ncnn":
        ncnn = NcnnGraph(form.path, spec, cpu_count())
        return lambda images: [values for values in ncnn(images) if values is not None]
    if form.engine == "openvino":
        return OpenVinoGraph(form.path, wanted, cpu_count(), bf16=form.bf16)
    session = _session(form)
    has = {output.name for output in session.get_outputs()}
    outputs = [name for name in wanted if name in has]
    return lambda images: session.run(outputs, {spec.input_name: images})


def _session(form: Form) -> ort.InferenceSession:
    options = ort.SessionOptions()
    if form.saves_memory:
        options.enable_cpu_mem_arena = False
        options.add_session_config_entry("session.disable_prepacking", "1")
    return ort.InferenceSession(form.path, options, providers=["CPUExecutionProvider"])


def _fully_connected_in(bits: int, source: Path) -> onnx.ModelProto:
    model = _gemm_as_matmul(onnx.load(source))
    quantizer = MatMulNBitsQuantizer(
        model,
        bits=bits,
        block_size=_BLOCK_SIZE[bits],
        is_symmetric=True,
        accuracy_level=_INT8_ACTIVATIONS,
    )
    quantizer.process()
    quantized: onnx.ModelProto = quantizer.model.model
    return quantized


def _gemm_as_matmul(model: onnx.ModelProto) -> onnx.ModelProto:
    """The quantizer knows MatMul with weights [in, out]; PyTorch exports Gemm with [out, in]."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        if node.op_type != "Gemm":
            nodes.append(node)
            continue
        data, weight, *bias = node.input
        transposed = numpy_helper.to_array(weights[weight]).T
        weights[weight].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(transposed), weight))
        product = f"{node.output[0]}_product" if bias else node.output[0]
        nodes.append(helper.make_node("MatMul", [data, weight], [product], name=f"{node.name}_mm"))
        if bias:
            nodes.append(helper.make_node("Add", [product, *bias], node.output))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the quantizers' notes off the user's terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
