"""Grad-CAM in ONNX nodes, for a service without PyTorch, and the proof that its maps are those of
`models.network.grad_cam`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

from models.bundle.bundle import EXPLAINED_INPUT, HEAT_MAP_OUTPUT
from models.bundle.spec import ModelSpec
from models.export.onnx_export import ExportError, ServingModule
from models.network.architectures import architecture
from models.network.grad_cam import LEAST_SCALE, grad_cam

# Largest difference in any value of a map, 0..1.
HEAT_MAP_TOLERANCE = 1e-3

_PROOF_IMAGES = 3


def write_explainer(source: Path, target: Path, spec: ModelSpec) -> None:
    """Write the graph uint8[N,S,S,3], int64[N] classes -> float32[N,h,w], 0..1.

    Behind the pooled features P [N,channels,h,w] there is a chain of matrices with ReLUs between
    them: three and two in VGG-19. So the gradient of a class's logit is a product of the matrices'
    transposes with the masks of what the ReLUs let through; and Grad-CAM asks only for its mean
    over the places of each channel. For the sum (the map is scaled in the end) the average
    pooling's own transpose isn't needed, since each of its rows sums to 1, and of the first matrix
    only the columns summed over the places are: for VGG-19 8 MB instead of 411.

    Args:
        source: model.onnx. Its weights are referred to where they lie and not copied, so `target`
            must be beside it.
    """
    network = architecture(spec.architecture)
    model = onnx.load(source, load_external_data=False)
    graph = model.graph
    layers = [node for node in graph.node if node.op_type == "Gemm"]
    layers = layers[-len(network.fully_connected) :]
    after_relu = {node.input[0]: node.output[0] for node in graph.node if node.op_type == "Relu"}
    pooled = _pooled(graph, network.pooled_operator, layers[0])
    channels, *sides = _shape(graph, pooled)
    graph.initializer.append(
        _summed_over_places(graph, layers[0].input[1], channels, source.parent)
    )
    graph.node.extend(
        _nodes(
            pooled,
            [after_relu[layer.output[0]] for layer in layers[:-1]],
            [_SUMMED, *(layer.input[1] for layer in layers[1:])],
        )
    )
    graph.initializer.extend(_constants())
    graph.input.append(helper.make_tensor_value_info(EXPLAINED_INPUT, TensorProto.INT64, ["N"]))
    del graph.output[:]
    graph.output.append(
        helper.make_tensor_value_info(HEAT_MAP_OUTPUT, TensorProto.FLOAT, ["N", *sides])
    )
    _drop_unused(graph)
    onnx.save_model(model, target)


def prove_heat_maps(
    module: ServingModule, spec: ModelSpec, path: Path, images: NDArray[np.uint8]
) -> float:
    """The largest difference between the graph at `path` and `grad_cam`, for the most and the
    least probable class of some images, the one that differs most left out.

    A gradient jumps where what goes into a ReLU is zero. Where one of thousands of values in the
    fully connected layers lies nearer to zero than two ways of adding differ, the maps may differ
    by 1e-2, and neither is wrong; it happened to a run on digits. A graph that is wrong is so for
    all images.

    Args:
        images: uint8[N,S,S,3], held out.

    Raises:
        ExportError: above `HEAT_MAP_TOLERANCE`.
    """
    network = architecture(spec.architecture)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    images = images[:_PROOF_IMAGES]
    with torch.no_grad():
        inputs = module.normalize(torch.from_numpy(images))
        order = module.model(inputs).argsort(dim=1)
    differences = np.zeros(len(images), np.float32)
    for targets in (order[:, -1], order[:, 0]):
        expected = grad_cam(network, module.model, inputs, targets).numpy()
        feed = {spec.input_name: images, EXPLAINED_INPUT: targets.numpy()}
        (actual,) = session.run([HEAT_MAP_OUTPUT], feed)
        differences = np.maximum(differences, np.abs(actual - expected).max(axis=(1, 2)))
    *others, most = np.sort(differences).tolist()  # NaN comes last
    largest: float = others[-1] if others and np.isfinite(most) else most
    if not largest <= HEAT_MAP_TOLERANCE:  # NaN fails, too
        raise ExportError(
            f"the exported heat maps differ from PyTorch's by {largest:.1e}, the limit is "
            f"{HEAT_MAP_TOLERANCE:.0e}; the checkpoint is not exported, please report it with the "
            "versions from 'pip freeze'"
        )
    return largest


# Constants of the graph.
_SUMMED, _ZERO, _TINY, _CHANNEL_AXIS, _PLACE_AXES, _MAP_AXES = (
    f"explain_{name}" for name in ("fc1", "zero", "tiny", "axis", "axes", "map_axes")
)


def _pooled(graph: onnx.GraphProto, operator: str, first_layer: onnx.NodeProto) -> str:
    """What goes into the average pooling: what the last such operator before this layer gives."""
    before = itertools.takewhile(lambda node: node.output[0] != first_layer.output[0], graph.node)
    *_, last = (node.output[0] for node in before if node.op_type == operator)
    return str(last)


def _shape(graph: onnx.GraphProto, name: str) -> list[int]:
    """Of a value, without the batch; the exporter has recorded it."""
    info = next(info for info in graph.value_info if info.name == name)
    return [dim.dim_value for dim in info.type.tensor_type.shape.dim[1:]]


def _nodes(pooled: str, activations: Sequence[str], weights: Sequence[str]) -> list[onnx.NodeProto]:
    """From the head backwards to the pooled features, and the map.

    Args:
        activations: what the ReLU behind each fully connected layer but the head gives.
        weights: of the layers, those of the first one summed over the places.
    """
    steps: list[tuple[str, list[str], str, dict[str, int]]] = [
        ("Gather", [weights[-1], EXPLAINED_INPUT], f"gradient{len(activations)}", {"axis": 0})
    ]
    for number in range(len(activations), 0, -1):
        below = number - 1
        steps += [
            ("Greater", [activations[below], _ZERO], f"let{number}", {}),
            ("Cast", [f"let{number}"], f"mask{number}", {"to": TensorProto.FLOAT}),
            ("Mul", [f"gradient{number}", f"mask{number}"], f"masked{number}", {}),
            ("MatMul", [f"masked{number}", weights[below]], f"gradient{below}", {}),
        ]
    steps += [
        ("Unsqueeze", ["gradient0", _PLACE_AXES], "weights", {}),
        ("Mul", ["weights", pooled], "weighted", {}),
        ("ReduceSum", ["weighted", _CHANNEL_AXIS], "sum", {"keepdims": 0}),
        ("Relu", ["sum"], "map", {}),
        ("ReduceMin", ["map", _MAP_AXES], "least", {"keepdims": 1}),
        ("Sub", ["map", "least"], "from0", {}),
        ("ReduceMax", ["from0", _MAP_AXES], "most", {"keepdims": 1}),
        ("Max", ["most", _TINY], "scale", {}),
        ("Div", ["from0", "scale"], HEAT_MAP_OUTPUT, {}),
    ]
    own = {output for _, _, output, _ in steps} - {HEAT_MAP_OUTPUT}

    def name(value: str) -> str:
        return f"explain_{value}" if value in own else value

    return [
        helper.make_node(kind, [name(i) for i in inputs], [name(output)], **attributes)
        for kind, inputs, output, attributes in steps
    ]


def _constants() -> list[onnx.TensorProto]:
    floats = {_ZERO: 0.0, _TINY: LEAST_SCALE}
    axes = {_CHANNEL_AXIS: [1], _PLACE_AXES: [2, 3], _MAP_AXES: [1, 2]}
    return [
        *(numpy_helper.from_array(np.array([v], np.float32), name) for name, v in floats.items()),
        *(numpy_helper.from_array(np.array(v, np.int64), name) for name, v in axes.items()),
    ]


def _summed_over_places(
    graph: onnx.GraphProto, name: str, channels: int, directory: Path
) -> onnx.TensorProto:
    """The first fully connected layer's weights [K, channels * places] -> [K, channels]."""
    tensor = onnx.TensorProto()
    tensor.CopyFrom(next(tensor for tensor in graph.initializer if tensor.name == name))
    if uses_external_data(tensor):
        load_external_data_for_tensor(tensor, str(directory))
    weights = numpy_helper.to_array(tensor)
    summed = weights.reshape(len(weights), channels, -1).sum(axis=2, dtype=np.float64)
    return numpy_helper.from_array(summed.astype(np.float32), _SUMMED)


def _drop_unused(graph: onnx.GraphProto) -> None:
    """What only the probabilities needed."""
    needed = {HEAT_MAP_OUTPUT}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(node.input)
    del graph.node[:]
    graph.node.extend(reversed(kept))
    tensors = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(tensors)
    del graph.value_info[:]
