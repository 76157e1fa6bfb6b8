"""model.onnx -> the two files of `models.bundle.ncnn_graph`. VGG-19 is a chain, which makes this
short."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from models.bundle.bundle import FEATURES_OUTPUT
from models.bundle.ncnn_graph import INPUT, OUTPUT

_MAGIC = 7767517  # of a .param file
_FLOAT32 = np.uint32(0)  # the tag before weights that are stored as they are


@dataclass(frozen=True)
class _Layer:
    """A line of the .param file, and what it holds in the .bin file."""

    kind: str
    parameters: str = ""
    weights: tuple[NDArray[np.float32], ...] = ()


def write_ncnn(source: Path, param: Path) -> None:
    """Write `param` and, beside it, `.bin`.

    Args:
        source: the float32 graph of a VGG-19, as `models.export.onnx_export.export` writes it.
    """
    layers = [*_layers(onnx.load(source))]
    blobs = [INPUT, *(str(number) for number in range(1, len(layers))), OUTPUT]
    blobs[-3] = FEATURES_OUTPUT  # what goes into the head, before its softmax
    lines = [str(_MAGIC), f"{len(layers) + 1} {len(blobs)}", f"Input {INPUT} 0 1 {INPUT}"]
    lines += [
        f"{layer.kind} {layer.kind.lower()}{number} 1 1 {blobs[number]} {blobs[number + 1]} "
        f"{layer.parameters}".rstrip()
        for number, layer in enumerate(layers)
    ]
    param.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with param.with_suffix(".bin").open("wb") as file:
        for layer in layers:
            if layer.weights:
                weight, bias = layer.weights
                file.write(_FLOAT32.tobytes())
                file.write(weight.astype("<f4").tobytes())
                file.write(bias.astype("<f4").tobytes())


def _layers(model: onnx.ModelProto) -> Iterator[_Layer]:
    """Everything behind the normalisation, which `NcnnGraph` does to the pixels."""
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type in ("Conv", "MaxPool", "Gemm")]
    temperature = _temperature(model, values)
    for number, node in enumerate(nodes):
        following = nodes[number + 1].op_type if number + 1 < len(nodes) else ""
        if node.op_type == "MaxPool":
            yield _Layer("Pooling", "0=0 1=2 2=2 3=0 5=1")
            if following == "Gemm":
                yield _Layer("Pooling", "0=1 7=1 8=7 18=7")  # average, to 7 x 7
                yield _Layer("Flatten")
            continue
        weight, *given = (values[name] for name in node.input[1:])
        bias = given[0] if given else np.zeros(len(weight), np.float32)  # the exporter drops zeros
        if node.op_type == "Conv":
            sizes = f"0={len(weight)} 1=3 11=3 2=1 12=1 3=1 13=1 4=1 14=1 5=1"
            yield _Layer("Convolution", f"{sizes} 6={weight.size} 9=1", (weight, bias))
        elif following:
            yield _Layer("InnerProduct", f"0={len(weight)} 1=1 2={weight.size} 9=1", (weight, bias))
        else:  # the head: no ReLU; what divides its outputs may as well divide its weights
            yield _Layer(
                "InnerProduct",
                f"0={len(weight)} 1=1 2={weight.size}",
                (weight / temperature, bias / temperature),
            )
            yield _Layer("Softmax", "0=0 1=1")


def _temperature(model: onnx.ModelProto, values: dict[str, NDArray[np.float32]]) -> float:
    """What the logits are divided by before the softmax; 1 if they aren't."""
    head = max(i for i, node in enumerate(model.graph.node) if node.op_type == "Gemm")
    behind: Sequence[onnx.NodeProto] = model.graph.node[head + 1 :]
    factor = 1.0
    for node in behind:
        if node.op_type == "Div":
            factor *= float(values[node.input[1]])
        elif node.op_type == "Mul":
            factor /= float(values[node.input[1]])
    return factor
