"""model.onnx -> the same network in float16, for GPUs. Needs onnx, but no torch."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto
from onnxruntime.transformers.float16 import convert_float_to_float16

from models.bundle.spec import ModelSpec

# An activation must stay this many times below float16's largest number on the images that were
# looked at; others may go further.
_FLOAT16_MARGIN = 8
_FLOAT16_MAX = 65504.0


def float16(source: Path, spec: ModelSpec, images: NDArray[np.uint8]) -> onnx.ModelProto:
    model = onnx.load(source)
    largest = _largest_activations(model, spec, images)
    first_conv = next(i for i, node in enumerate(model.graph.node) if node.op_type == "Conv")
    kept = [node.name for node in model.graph.node[:first_conv]]  # normalisation, from 0..255
    kept += [node.name for node in model.graph.node if node.op_type == "Softmax"]
    limit = _FLOAT16_MAX / _FLOAT16_MARGIN
    kept += [node.name for node in model.graph.node if largest.get(node.output[0], 0.0) > limit]
    converted: onnx.ModelProto = convert_float_to_float16(
        model, keep_io_types=True, node_block_list=kept
    )
    _drop_round_trips(converted.graph)
    _pool_before_relu(converted.graph)
    return converted


def _drop_round_trips(graph: onnx.GraphProto) -> None:
    """Between two nodes that stay in float32, and between one and an output, the conversion casts
    to float16 and back, which costs time and digits."""
    producers = {name: node for node in graph.node for name in node.output}

    def source(name: str) -> str | None:
        """What `name` was before it was cast there and back."""
        back = producers.get(name)
        there = producers.get(back.input[0]) if back is not None else None
        if back is None or there is None:
            return None
        whole, half = TensorProto.FLOAT, TensorProto.FLOAT16
        return there.input[0] if _casts_to(back, whole) and _casts_to(there, half) else None

    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = source(name) or name
    for output in graph.output:
        before = source(output.name)
        if before is not None:  # from now on the output itself
            producers[output.name].output[0] = f"{output.name}_cast"
            _rename(graph, before, output.name)
    _drop_unused_casts(graph)


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name == old:
                    names[place] = new


def _drop_unused_casts(graph: onnx.GraphProto) -> None:
    nodes = list(graph.node)
    while True:
        used = {name for node in nodes for name in node.input}
        used |= {output.name for output in graph.output}
        left = [node for node in nodes if node.op_type != "Cast" or node.output[0] in used]
        if len(left) == len(nodes):
            break
        nodes = left
    del graph.node[:]
    graph.node.extend(nodes)


def _casts_to(node: onnx.NodeProto, data_type: int) -> bool:
    return bool(node.op_type == "Cast" and node.attribute[0].i == data_type)


def _pool_before_relu(graph: onnx.GraphProto) -> None:
    """The largest of what ReLU gives is what ReLU gives of the largest, on a quarter of the values.

    On a GPU, where ReLU is a pass of its own over the memory. (On the CPU ONNX Runtime does it
    within the convolution.)
    """
    consumers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    for node in graph.node:
        behind = consumers.get(node.output[0], [])
        if node.op_type != "Relu" or [other.op_type for other in behind] != ["MaxPool"]:
            continue
        relu, pool = onnx.NodeProto(), onnx.NodeProto()
        relu.CopyFrom(node)
        pool.CopyFrom(behind[0])
        between = f"{pool.output[0]}_before_relu"  # a new name: its shape is another
        pool.input[0], pool.output[0] = node.input[0], between
        relu.input[0], relu.output[0] = between, behind[0].output[0]
        node.CopyFrom(pool)
        behind[0].CopyFrom(relu)


def _largest_activations(
    model: onnx.ModelProto, spec: ModelSpec, images: NDArray[np.uint8]
) -> dict[str, float]:
    """The largest absolute value of each output of a convolution or a fully connected layer."""
    names = [node.output[0] for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "probe.onnx"
        onnx.save_model(probe, path)
        session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    largest = dict.fromkeys(names, 0.0)
    for image in images:
        outputs = session.run(names, {spec.input_name: image[None]})
        for name, output in zip(names, outputs, strict=True):
            largest[name] = max(largest[name], float(np.abs(output).max()))
    return largest
