"""Data and models that tests make, and commands that they run."""

from __future__ import annotations

import io
import itertools
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx.numpy_helper import from_array
from PIL import Image

from models.bundle import (
    CARD_FILE,
    EXPLAIN_FILE,
    EXPLAINED_INPUT,
    GOLDEN_FILE,
    HEAT_MAP_OUTPUT,
    METRICS_FILE,
    MODEL_FILE,
    SPEC_FILE,
    GoldenSamples,
    seal,
)
from models.manifest import Provenance
from models.spec import ModelSpec, Preprocessing

SIZE = 32
BUSY_SIZE = 512
_PEM = serialization.Encoding.PEM
COLOURS = ("blue", "green", "red")  # sorted, as the labels of an image folder are


def encode(pixels: NDArray[np.uint8], image_format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, image_format)
    return buffer.getvalue()


def coloured_pixels(seed: int, colour: str | None = None, size: int = SIZE) -> NDArray[np.uint8]:
    """Noise of which one channel is brighter; no two seeds give the same image."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 120, (size, size, 3), dtype=np.uint8)
    channel = ("red", "green", "blue").index(colour or COLOURS[seed % 3])
    pixels[:, :, channel] += 100
    return pixels


def write_image_folder(root: Path, counts: dict[str, int], first_seed: int = 0) -> Path:
    """`root/COLOUR/N.png`, `counts` images of each colour."""
    seed = first_seed
    for colour, count in counts.items():
        (root / colour).mkdir(parents=True, exist_ok=True)
        for _ in range(count):
            path = root / colour / f"{seed:04}.png"
            path.write_bytes(encode(coloured_pixels(seed, colour)))
            seed += 1
    return root


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
) -> Path:
    """A bundle whose model is a few nodes instead of VGG-19: which channel is brightest?

    Args:
        busy: matrix products, of some milliseconds each, that every batch takes besides.
        fails_on_white: ONNX Runtime raises on a batch that holds an image that is all white.
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
        _keep_busy(graph, busy)
    if fails_on_white:
        _fail_on_white(graph)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save_model(model, path / MODEL_FILE)
    images = np.stack([coloured_pixels(seed) for seed in range(3)])
    golden = GoldenSamples(images=images, probabilities=tiny_probabilities(images))
    write_beside_model(path, spec, golden, "tiny")
    write_tiny_explainer(path)
    seal(path, provenance(created_at))
    return path


def tiny_heat_map(image: NDArray[np.uint8], index: int) -> NDArray[np.float32]:
    """What `write_tiny_explainer`'s graph answers: how bright a class's channel is, in 4 x 4."""
    channel = image[:, :, 2 - index].astype(np.float32)
    blocks = channel.reshape(4, SIZE // 4, 4, SIZE // 4).mean(axis=(1, 3))
    result: NDArray[np.float32] = blocks / blocks.max()
    return result


def write_tiny_explainer(path: Path) -> None:
    """`EXPLAIN_FILE` for a tiny bundle that isn't sealed yet, or is sealed again."""
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
        helper.make_node("Div", ["map", "most"], [HEAT_MAP_OUTPUT]),
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
        ],
    )
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


def write_keys(
    directory: Path, name: str = "key", curve: type[ec.EllipticCurve] = ec.SECP256R1
) -> tuple[Path, Path]:
    """A new pair of keys to sign models with: `NAME.pem` and `NAME.pub`."""
    key = ec.generate_private_key(curve())
    return write_private_key(directory / f"{name}.pem", key), write_public_key(
        directory / f"{name}.pub", key
    )


def write_private_key(path: Path, key: PrivateKeyTypes, passphrase: str = "") -> Path:
    encryption = (
        serialization.BestAvailableEncryption(passphrase.encode())
        if passphrase
        else serialization.NoEncryption()
    )
    path.write_bytes(key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, encryption))
    return path


def write_public_key(path: Path, key: PrivateKeyTypes) -> Path:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    path.write_bytes(key.public_key().public_bytes(_PEM, form))
    return path


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def _keep_busy(graph: onnx.GraphProto, count: int) -> None:
    """Add nodes that need the input, so that they can't be computed beforehand; they add 0."""
    names = [f"product{number}" for number in range(count + 1)]
    graph.node[-2].output[0] = "plain"  # what was "logits"
    softmax = graph.node.pop()
    graph.node.append(helper.make_node("ReduceMean", ["float"], ["mean"], keepdims=0))
    graph.node.append(helper.make_node("Mul", ["matrix", "mean"], names[:1]))
    for left, right in itertools.pairwise(names):
        graph.node.append(helper.make_node("MatMul", [left, "matrix"], [right]))
    graph.node.append(helper.make_node("ReduceMean", names[-1:], ["value"], keepdims=0))
    graph.node.append(helper.make_node("Mul", ["value", "zero"], ["nothing"]))
    graph.node.append(helper.make_node("Add", ["plain", "nothing"], ["logits"]))
    graph.node.append(softmax)
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


def run_command(*arguments: str, cwd: Path, home: Path) -> subprocess.CompletedProcess[str]:
    """Run one of the environment's commands (`vgg19`, `bentoml`) as a user would."""
    command = [str(Path(sys.executable).with_name(arguments[0])), *arguments[1:]]
    environment = os.environ | {
        "BENTOML_HOME": str(home),
        "BENTOML_DO_NOT_TRACK": "True",
        "COLUMNS": "160",
    }
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=280
    )


def vgg19(home: Path, *arguments: str) -> str:
    """Run the `vgg19` command on a BentoML home; what it printed.

    Raises:
        RuntimeError: it failed, with what it said.
    """
    result = run_command("vgg19", *arguments, cwd=home.parent, home=home)
    if result.returncode:
        raise RuntimeError(result.stderr)
    return result.stdout
