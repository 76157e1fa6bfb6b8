"""The real model as a SavedModel that takes JPEGs, with the weights of model.onnx.

python -m benchmarks.serving.workload real
P=benchmarks/peers/tf_serving B=build/benchmarks
python -m venv $B/tf && $B/tf/bin/pip install -r $P/requirements.txt
$B/tf/bin/python $P/save_model.py $B/serving/real/bundle $B/peers/tf_serving/vgg19/1
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import onnx
import tensorflow as tf
from onnx.numpy_helper import to_array

_SHORT, _SIZE = 256, 224


def decode(data: Any) -> Any:
    """A JPEG -> uint8[224,224,3], RGB, by the rule of `benchmarks.peers.common`, in the graph."""
    image = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")
    sides = tf.shape(image)[:2]
    size = sides * _SHORT // tf.reduce_min(sides)
    resized = tf.image.resize(image, size, "bilinear", antialias=True)
    top, left = tf.unstack(tf.cast(tf.round((size - _SIZE) / 2), tf.int32))
    cut = tf.image.crop_to_bounding_box(resized, top, left, _SIZE, _SIZE)
    return tf.cast(tf.clip_by_value(tf.round(cut), 0, 255), tf.uint8)


class Network(tf.Module):
    """VGG-19's graph as the export writes it: its nodes in TensorFlow's own operations, NHWC.

    Args:
        graph: of ONNX, with its weights.

    Raises:
        KeyError: a node is of a kind that VGG-19 hasn't.
    """

    def __init__(self, graph: Any) -> None:
        self._nodes = list(graph.node)
        self._constants = {tensor.name: to_array(tensor) for tensor in graph.initializer}
        # The first weights of the classifier are for [C,H,W] in a row; TensorFlow has [H,W,C].
        first = next(node.input[1] for node in self._nodes if node.op_type == "Gemm")
        weights = self._constants[first].reshape(-1, 512, _SIZE // 32, _SIZE // 32)
        self._constants[first] = weights.transpose(0, 2, 3, 1).reshape(len(weights), -1)
        self._weights = {
            node.input[1]: tf.Variable(self._laid_out(node), trainable=False)
            for node in self._nodes
            if node.op_type in ("Conv", "Gemm")
        }

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="images")])
    def serve(self, images: Any) -> dict[str, Any]:
        """string[N], JPEGs -> float32[N,C]."""
        pixels = tf.map_fn(
            decode, images, fn_output_signature=tf.TensorSpec([_SIZE, _SIZE, 3], tf.uint8)
        )
        values = {"images": pixels}
        for node in self._nodes:
            values[node.output[0]] = self._run(node, values)
        return {"probabilities": values["probabilities"]}

    def _laid_out(self, node: Any) -> Any:
        weight = self._constants[node.input[1]]
        return weight.transpose(2, 3, 1, 0) if node.op_type == "Conv" else weight.T

    def _run(self, node: Any, values: dict[str, Any]) -> Any:
        x = values[node.input[0]]
        constants = [self._constants[name] for name in node.input[1:]]
        if node.op_type in ("Conv", "Gemm"):
            weight = self._weights[node.input[1]]
            y = tf.nn.conv2d(x, weight, 1, "SAME") if node.op_type == "Conv" else x @ weight
            return y if len(constants) < 2 else y + constants[1]
        operations = {
            "Transpose": lambda: x,  # to NCHW, which is left out here
            "Cast": lambda: tf.cast(x, tf.float32),
            "Sub": lambda: x - constants[0].ravel(),
            "Div": lambda: x / constants[0].ravel(),
            "Relu": lambda: tf.nn.relu(x),
            "MaxPool": lambda: tf.nn.max_pool2d(x, 2, 2, "VALID"),
            "AveragePool": lambda: x,  # of 7 x 7 to 7 x 7, at 224 px
            "Reshape": lambda: tf.reshape(x, [tf.shape(x)[0], -1]),
            "Softmax": lambda: tf.nn.softmax(x),
        }
        return operations[node.op_type]()


if __name__ == "__main__":
    bundle, target = map(Path, sys.argv[1:])
    network = Network(onnx.load(bundle / "model.onnx").graph)
    tf.saved_model.save(network, str(target), signatures={"serving_default": network.serve})
