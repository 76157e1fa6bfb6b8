"""Bundles whose model is a few nodes instead of VGG-19."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx.numpy_helper import from_array

from models.bundle.bundle import (
    CARD_FILE,
    EXPLAIN_FILE,
    EXPLAINED_INPUT,
    GOLDEN_FILE,
    HEAT_MAP_OUTPUT,
    METRICS_FILE,
    MODEL_FILE,
    SPEC_FILE,
)
from models.bundle.golden import GoldenSamples
from models.bundle.manifest import Provenance
from models.bundle.spec import ModelSpec
from models.bundle.writer import write_manifest
from models.imaging.preprocessing import Preprocessing
from testing.images import COLOURS, SIZE, coloured_pixels

BUSY_SIZE = 512


def tiny_spec() -> ModelSpec:
    return ModelSpec(labels=COLOURS, preprocessing=Preprocessing(image_size=SIZE, resize_size=SIZE))


def tiny_probabilities(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What `write_tiny_bundle`'s model answers, in numpy: softmax of the mean of each channel."""
    means = images.astype(np.float32).mean(axis=(1, 2))[:, ::-1] / 8  # blue, green, red
    exponents = np.exp(means - means.max(axis=1, keepdims=True))
    result: NDArray[np.float32] = exponents / exponents.sum(axis=1, keepdims=True)
    return result


def write_tiny_bundle(
    path: Path,
    created_at: str = "2026-01-31T12:00:00+00:00",
    busy: int = 0,
    *,
    fails_on_white: bool = False,
    explainer_busy: int = 0,
) -> Path:
    """A bundle whose model is a few nodes instead of VGG-19: which channel is brightest?

    Args:
        busy: matrix products, of some milliseconds each, that every batch takes besides.
        fails_on_white: ONNX Runtime raises on a batch that holds an image that is all white.
        explainer_busy: as `busy`, of each heat map.
    """
    path.mkdir(parents=True)
    spec = tiny_spec()
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["means"], keepdims=0),
        helper.make_node("Gather", ["means", "order"], ["ordered"], axis=1),
        helper.make_node("Div", ["ordered", "eight"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", SIZE, SIZE, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 3])],
        [
            helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2]),
            helper.make_tensor("order", TensorProto.INT64, [3], [2, 1, 0]),
            helper.make_tensor("eight", TensorProto.FLOAT, [], [8.0]),
        ],
    )
    if busy:
        _keep_busy(graph, busy, "logits")
    if fails_on_white:
        _fail_on_white(graph)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save_model(model, path / MODEL_FILE)
    images = np.stack([coloured_pixels(seed) for seed in range(3)])
    golden = GoldenSamples(images=images, probabilities=tiny_probabilities(images))
    write_beside_model(path, spec, golden, "tiny")
    write_tiny_explainer(path, explainer_busy)
    write_manifest(path, provenance(created_at))
    return path


_LEAST = 1e-6


def tiny_heat_map(image: NDArray[np.uint8], index: int) -> NDArray[np.float32]:
    """What `write_tiny_explainer`'s graph answers: how bright a class's channel is, in 4 x 4."""
    channel = image[:, :, 2 - index].astype(np.float32)
    blocks = channel.reshape(4, SIZE // 4, 4, SIZE // 4).mean(axis=(1, 3))
    result: NDArray[np.float32] = blocks / max(blocks.max(), _LEAST)
    return result


def write_tiny_explainer(path: Path, busy: int = 0) -> None:
    """`EXPLAIN_FILE` for a tiny bundle whose manifest isn't written yet, or is written again.

    busy: see `write_tiny_bundle`.
    """
    number = TensorProto.FLOAT
    block = SIZE // 4
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=number),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node(
            "AveragePool", ["planes"], ["pooled"],
            kernel_shape=[block, block], strides=[block, block],
        ),
        helper.make_node("Gather", ["channels", EXPLAINED_INPUT], ["mask"], axis=0),
        helper.make_node("Unsqueeze", ["mask", "sides"], ["weights"]),
        helper.make_node("Mul", ["weights", "pooled"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "one"], ["map"], keepdims=0),
        helper.make_node("ReduceMax", ["map", "map_sides"], ["most"], keepdims=1),
        helper.make_node("Max", ["most", "least"], ["divisor"]),  # of a black image all is 0
        helper.make_node("Div", ["map", "divisor"], [HEAT_MAP_OUTPUT]),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "tiny explainer",
        [
            helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", SIZE, SIZE, 3]),
            helper.make_tensor_value_info(EXPLAINED_INPUT, TensorProto.INT64, ["N"]),
        ],
        [helper.make_tensor_value_info(HEAT_MAP_OUTPUT, number, ["N", 4, 4])],
        [
            from_array(np.eye(3, dtype=np.float32)[::-1], "channels"),
            from_array(np.array([2, 3]), "sides"),
            from_array(np.array([1]), "one"),
            from_array(np.array([1, 2]), "map_sides"),
            from_array(np.array(_LEAST, np.float32), "least"),
        ],
    )
    if busy:
        _keep_busy(graph, busy, HEAT_MAP_OUTPUT)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save_model(model, path / EXPLAIN_FILE)


def write_beside_model(path: Path, spec: ModelSpec, golden: GoldenSamples, name: str) -> None:
    """What a bundle needs beside model.onnx and its manifest."""
    spec.write(path / SPEC_FILE)
    golden.write(path / GOLDEN_FILE)
    held_out = {"split": "test", "images": 3, "accuracy": 1.0, "loss": 0.1}
    (path / METRICS_FILE).write_text(json.dumps({"held_out": held_out}))
    (path / CARD_FILE).write_text(f"# {name}\n")


def provenance(created_at: str = "2026-01-31T12:00:00+00:00") -> Provenance:
    """Of a model that nobody trained."""
    return Provenance(
        created_at=created_at,
        training_config={"strategy": "fc"},
        data_fingerprint="0" * 64,
        seed=0,
        git_commit=None,
        packages={"numpy": np.__version__},
    )


def _keep_busy(graph: onnx.GraphProto, count: int, value: str) -> None:
    """Add nodes that need the input, so that they can't be computed beforehand; they add 0 to a
    value, which one of the last two nodes computes."""
    names = [f"product{number}" for number in range(count + 1)]
    behind = [] if value in graph.node[-1].output else [graph.node.pop()]
    graph.node[-1].output[0] = "plain"  # what was the value
    graph.node.append(helper.make_node("ReduceMean", ["float"], ["mean"], keepdims=0))
    graph.node.append(helper.make_node("Mul", ["matrix", "mean"], names[:1]))
    for left, right in itertools.pairwise(names):
        graph.node.append(helper.make_node("MatMul", [left, "matrix"], [right]))
    graph.node.append(helper.make_node("ReduceMean", names[-1:], ["value"], keepdims=0))
    graph.node.append(helper.make_node("Mul", ["value", "zero"], ["nothing"]))
    graph.node.append(helper.make_node("Add", ["plain", "nothing"], [value]))
    graph.node.extend(behind)
    matrix = np.full((BUSY_SIZE, BUSY_SIZE), 1 / BUSY_SIZE, np.float32)
    graph.initializer.extend(
        [from_array(matrix, "matrix"), from_array(np.zeros((), np.float32), "zero")]
    )


def _fail_on_white(graph: onnx.GraphProto) -> None:
    """Look each image's brightness up in a table of one element, where only white is number 1."""
    softmax = graph.node.pop()
    before, softmax.input[0] = softmax.input[0], "looked_up"
    graph.node.extend(
        [
            helper.make_node("ReduceMean", ["float", "all_axes"], ["brightness"], keepdims=0),
            helper.make_node("Div", ["brightness", "white"], ["share"]),
            helper.make_node("Cast", ["share"], ["row"], to=TensorProto.INT64),
            helper.make_node("Gather", ["table", "row"], ["found"], axis=0),  # [N,1], of zeros
            helper.make_node("Add", [before, "found"], ["looked_up"]),
            softmax,
        ]
    )
    graph.initializer.extend(
        [
            helper.make_tensor("all_axes", TensorProto.INT64, [3], [1, 2, 3]),
            helper.make_tensor("white", TensorProto.FLOAT, [], [255.0]),
            helper.make_tensor("table", TensorProto.FLOAT, [1, 1], [0.0]),
        ]
    )
