"""A float32 network, changed so that int8 keeps more of it. Its answers stay the same.

Two of the methods of Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and
Bias Correction" (arXiv 1906.04721), with activations that were measured in place of assumed ones.
docs/benchmarks.md has what each is worth for VGG-19.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

LAYERS = ("Conv", "Gemm")
# f(s x) = s f(x) for s > 0, channel by channel: a channel's scale goes through unchanged.
_HOMOGENEOUS = (
    "AveragePool",
    "Dropout",
    "Flatten",
    "GlobalAveragePool",
    "MaxPool",
    "Relu",
    "Reshape",
)
# A channel's scale stays within these, so that one that is nearly always zero isn't blown up.
_SCALE_LIMIT = 16.0

Values = NDArray[np.float32]


@dataclass(frozen=True)
class InputRange:
    """Of what goes into a layer, on calibration images: float32[C] each, the largest absolute
    value and the mean of every channel (of every element, for a fully connected layer)."""

    largest: Values
    mean: Values


class Weights:
    """The weights of a graph by name, to be read and replaced; a layer without a bias gets one."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._graph = model.graph
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}

    def weight(self, layer: onnx.NodeProto) -> Values:
        """float32[O,I,...]: outputs first."""
        return _values(self._tensors[layer.input[1]])

    def bias(self, layer: onnx.NodeProto) -> Values:
        """float32[O]."""
        if len(layer.input) == 2:
            name = f"{layer.name}_bias"
            zeros = np.zeros(self.weight(layer).shape[0], np.float32)
            self._tensors[name] = self._graph.initializer.add()
            self._tensors[name].CopyFrom(numpy_helper.from_array(zeros, name))
            layer.input.append(name)
        return _values(self._tensors[layer.input[2]])

    def replace(self, layer: onnx.NodeProto, weight: Values, bias: Values) -> None:
        for name, values in zip(layer.input[1:3], (weight, bias), strict=True):
            tensor = numpy_helper.from_array(np.ascontiguousarray(values, np.float32), name)
            self._tensors[name].CopyFrom(tensor)

    def holds(self, layer: onnx.NodeProto) -> bool:
        """Whether the layer's weights are constants, with the outputs in the first dimension."""
        attributes = {attribute.name: attribute for attribute in layer.attribute}
        if not all(name in self._tensors for name in layer.input[1:]):
            return False
        if layer.op_type == "Gemm":
            return "transB" in attributes and attributes["transB"].i == 1
        return "group" not in attributes or attributes["group"].i == 1


def equalize(model: onnx.ModelProto, ranges: dict[str, InputRange]) -> None:
    """Scale the channels between two layers, so that all of them use the int8 range alike.

    All channels of an activation share one int8 scale: a channel whose values are small beside
    the largest has few of the 256 steps. Channel c of the first layer is divided by s_c and the
    second layer's weights for it are multiplied by s_c, the square root of (largest value of the
    channel / largest weight for it), as in SmoothQuant (arXiv 2211.10438, alpha 0.5). Done where
    only ReLU, pooling and flattening lie between, and nothing else reads what lies between.

    Args:
        ranges: by the name of a layer's input, as it was before.
    """
    weights = Weights(model)
    for first, second in list(_pairs(model)):
        if not (weights.holds(first) and weights.holds(second)):
            continue
        before, after = weights.weight(first), weights.weight(second)
        channels = len(before)
        # A fully connected layer behind a convolution has one column a channel and place.
        by_channel = after.reshape(len(after), channels, -1)
        activation = ranges[second.input[0]].largest.reshape(channels, -1).max(axis=1)
        scale = _scales(activation, np.abs(by_channel).max(axis=(0, 2)))
        shape = (-1, *[1] * (before.ndim - 1))
        weights.replace(first, before / scale.reshape(shape), weights.bias(first) / scale)
        scaled = (by_channel * scale[None, :, None]).reshape(after.shape)
        weights.replace(second, scaled, weights.bias(second))


def correct_bias(
    model: onnx.ModelProto,
    ranges: dict[str, InputRange],
    layers: Iterable[onnx.NodeProto],
    steps: int,
) -> None:
    """Take out of each layer's bias what rounding its weights adds to its outputs on average.

    Args:
        ranges: by the name of a layer's input, of `model` as it is now.
        layers: those whose weights will be rounded.
        steps: on either side of zero.
    """
    weights = Weights(model)
    for layer in layers:
        if not weights.holds(layer):
            continue
        weight = weights.weight(layer)
        flat = weight.reshape(len(weight), -1)
        step = np.abs(flat).max(axis=1, keepdims=True) / steps
        step[step == 0] = 1
        mean = ranges[layer.input[0]].mean
        error = (
            (np.round(flat / step) * step - flat).reshape(len(weight), len(mean), -1).sum(axis=2)
        )
        weights.replace(layer, weight, weights.bias(layer) - error @ mean)


def layers_of(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The convolutions and fully connected layers, in the order of the graph."""
    return [node for node in model.graph.node if node.op_type in LAYERS]


def _pairs(model: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, onnx.NodeProto]]:
    """Layers that follow each other with nothing between but what keeps a channel's scale."""
    consumers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    outputs = {output.name for output in model.graph.output}
    for layer in layers_of(model):
        name = layer.output[0]
        while name not in outputs and len(consumers.get(name, [])) == 1:
            (node,) = consumers[name]
            if node.op_type in LAYERS and node.input[0] == name:
                yield layer, node
            if node.op_type not in _HOMOGENEOUS:
                break
            name = node.output[0]


def _values(tensor: onnx.TensorProto) -> Values:
    return np.asarray(numpy_helper.to_array(tensor), np.float32)


def _scales(activation: Values, weight: Values) -> Values:
    """float32[C] each -> float32[C], around 1."""
    used = (activation > 0) & (weight > 0)
    scale = np.ones_like(activation)
    scale[used] = np.sqrt(activation[used] / weight[used])
    if used.any():
        scale[used] /= np.exp(np.log(scale[used]).mean())
    return np.clip(scale, 1 / _SCALE_LIMIT, _SCALE_LIMIT)
