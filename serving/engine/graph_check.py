"""Looks at an ONNX file before ONNX Runtime does: a bundle may come from anywhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from google.protobuf.message import DecodeError

from models.bundle.bundle import weights_beside
from models.errors import BundleError
from protocol.onnx_graph_pb2 import Graph, Model, SparseTensor, Tensor

# What VGG-19 with its preprocessing, its softmax and its variants is made of, and plain arithmetic
# beside it. No control flow, no sequences, no strings, nothing that calls out of the graph.
_STANDARD = frozenset(
    {
        *("Conv", "Gemm", "MatMul", "Relu", "MaxPool", "AveragePool", "GlobalAveragePool"),
        *("Softmax", "Add", "Sub", "Mul", "Div", "ReduceMean", "ReduceMax", "ReduceSum", "Clip"),
        *("Cast", "Transpose", "Reshape", "Flatten", "Slice", "Gather", "Concat", "Squeeze"),
        *("Unsqueeze", "Shape", "Identity", "Constant", "ConstantOfShape", "Expand", "Pad"),
        # Average pooling to 7 x 7 of sizes that 7 doesn't divide is exported as these.
        *("GatherND", "GatherElements", "Range", "Split", "Tile", "Where", "Equal", "Less"),
        *("Greater", "Not", "And", "Or", "Mod", "Floor", "Ceil", "Min", "Max", "Neg", "Abs"),
        *("Sqrt", "Pow", "Exp", "ArgMax", "ReduceMin", "ReduceProd", "Resize"),
        *("QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul"),
    }
)
_ALLOWED = {"": _STANDARD, "ai.onnx": _STANDARD, "com.microsoft": frozenset({"MatMulNBits"})}


def check_graph(path: Path, weights: str | None = None) -> None:
    """Refuse a graph that could do more than classify, or that reads other files than its own.

    Args:
        weights: the file beside it that its large tensors may be in; None: `path`.data.

    Raises:
        BundleError: it is not an ONNX file, has an operator that is not allowed, a function of its
            own, or weights elsewhere than in that file, or beyond its end.
    """
    try:
        model = Model.FromString(path.read_bytes())
    except (OSError, DecodeError) as error:
        raise BundleError(f"{path} is not an ONNX file; export the run again") from error
    if model.functions:
        raise BundleError(f"{path} defines operators of its own; {_WAY_OUT}")
    beside = weights_beside(path) if weights is None else path.with_name(weights)
    _check(model.graph, path, beside)


_WAY_OUT = "it was not made by 'vgg19 export', and is not served"


def _check(graph: Graph, path: Path, weights: Path) -> None:
    tensors = [*graph.initializer, *_parts(graph.sparse_initializer)]
    for node in graph.node:
        if node.op_type not in _ALLOWED.get(node.domain, frozenset()):
            name = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            raise BundleError(f"{path} has the operator '{name[:100]}'; {_WAY_OUT}")
        for attribute in node.attribute:
            if attribute.HasField("g") or attribute.graphs:
                raise BundleError(f"{path} has a graph inside '{node.op_type}'; {_WAY_OUT}")
            tensors += [attribute.t, *attribute.tensors]
            tensors += _parts([attribute.sparse_tensor, *attribute.sparse_tensors])
    for place in _places(tensors):
        if place != weights.name:
            raise BundleError(f"{path} has weights in '{place[:100]}'; {_WAY_OUT}")
    _check_size(tensors, path, weights)


def _check_size(tensors: list[Tensor], path: Path, weights: Path) -> None:
    """A file that was cut off would be a page of ONNX Runtime's words in the log."""
    try:
        needed = max(map(_end, tensors), default=0)
    except ValueError:
        raise BundleError(f"{path} has weights at no place in a file; {_WAY_OUT}") from None
    size = weights.stat().st_size if weights.exists() else 0
    if size < needed:
        raise BundleError(
            f"{weights} has {size} bytes, and {path.name} needs {needed}; export or register the "
            "model again"
        )


def _end(tensor: Tensor) -> int:
    """How far into the weights' file a tensor reaches, in bytes."""
    place = {entry.key: entry.value for entry in tensor.external_data}
    return int(place.get("offset", "0")) + int(place.get("length", "0"))


def _parts(tensors: Iterable[SparseTensor]) -> Iterator[Tensor]:
    for sparse in tensors:
        yield from (sparse.values, sparse.indices)


def _places(tensors: list[Tensor]) -> Iterator[str]:
    for tensor in tensors:
        for entry in tensor.external_data:
            if entry.key == "location":
                yield entry.value
