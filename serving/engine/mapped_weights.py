"""Has ONNX Runtime's CPU provider read an FC layer's weights where the file is mapped.

The second operand of a product is arranged anew for the processor when a session is made: of
VGG-19's FC1 and FC2 that takes half a second of one core, and 0.5 GB that no file backs, for each
process. The first operand isn't, as it is read row by row anyway. So where a layer computes X W^T,
this has it compute (W X^T)^T, which takes the same time (docs/benchmarks.md); the transpositions
move a few numbers for each image, and those between two layers cancel out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path

from models.bundle.bundle import weights_beside
from protocol.onnx_graph_pb2 import Attribute, Model, Node, Tensor

# With it the transposition becomes part of the product, which then takes a quarter longer for one
# image at 64 px: it lacks the case of a matrix and a vector.
DISABLED_OPTIMIZER = "MatmulTransposeFusion"
# Of one layer, in numbers: 4 MB. A smaller one isn't worth two nodes more.
_LARGE = 2**20
_FLOAT32 = 1  # TensorProto.DataType; others are converted when a session is made
_INTS = 7  # AttributeProto.AttributeType
# What `Gemm` may say, and what it means where it doesn't.
_GEMM = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}
_X_BY_W_TRANSPOSED = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 1}


def with_mapped_weights(path: Path) -> bytes | None:
    """The graph, with its large FC layers turned around; None: it has none.

    Args:
        path: of an ONNX file that has been checked. Only weights beside it are mapped; one without
            isn't read, since it may hold hundreds of megabytes.
    """
    if not weights_beside(path).exists():
        return None
    model = Model.FromString(path.read_bytes())
    large = {
        tensor.name: tensor
        for tensor in model.graph.initializer
        if tensor.external_data and _is_large(tensor)
    }
    nodes = [turned for node in model.graph.node for turned in _turned(node, large)]
    if len(nodes) == len(model.graph.node):
        return None
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model.SerializeToString()


def _is_large(tensor: Tensor) -> bool:
    return tensor.data_type == _FLOAT32 and len(tensor.dims) == 2 and prod(tensor.dims) >= _LARGE


def _turned(node: Node, large: Mapping[str, Tensor]) -> Iterator[Node]:
    if node.op_type != "Gemm" or node.input[1] not in large or _says(node) != _X_BY_W_TRANSPOSED:
        yield node
        return
    images, weight = node.input[:2]
    bias = [name for name in node.input[2:] if name]  # an empty name is none
    (output,) = node.output
    turned, product = f"{output}/turned", f"{output}/product"
    back = f"{output}/back" if bias else output
    yield _transpose(images, turned)
    yield Node(op_type="MatMul", input=[weight, turned], output=[product])
    yield _transpose(product, back)
    if bias:
        yield Node(op_type="Add", input=[back, *bias], output=[output])


def _says(node: Node) -> dict[str, float]:
    return _GEMM | {
        one.name: one.i if one.name.startswith("trans") else one.f for one in node.attribute
    }


def _transpose(from_name: str, to_name: str) -> Node:
    order = Attribute(name="perm", type=_INTS, ints=[1, 0])
    return Node(op_type="Transpose", input=[from_name], output=[to_name], attribute=[order])
