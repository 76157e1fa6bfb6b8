from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import psutil
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx.numpy_helper import from_array

from serving.engine.mapped_weights import with_mapped_weights
from serving.engine.memory import trim_memory
from serving.engine.onnxruntime import inference_session
from serving.engine.options import SessionOptions
from serving.engine.providers import CPU

FEATURES, WIDTH = 2048, 1024  # of the first layer; the second is as wide as deep
ON_CPU = SessionOptions([(CPU, {})], None, intra_op_threads=1, max_batch_size=8)
Arrays = dict[str, NDArray[np.float32]]


def weights(width: int = WIDTH, *, bias: bool = True) -> Arrays:
    random = np.random.default_rng(0)

    def values(*shape: int) -> NDArray[np.float32]:
        return random.normal(0, 0.03, shape).astype(np.float32)

    arrays = {"w1": values(width, FEATURES), "w2": values(width, width)}
    return arrays | ({"b1": values(width), "b2": values(width)} if bias else {})


def write(
    path: Path, arrays: Mapping[str, NDArray[Any]], *, beside: bool = True, **says: Any
) -> Path:
    """Two FC layers with ReLUs, as `vgg19 export` writes them."""
    gemm = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 1} | says

    def layer(number: int, before: str) -> list[onnx.NodeProto]:
        inputs = [before, f"w{number}", *([f"b{number}"] if f"b{number}" in arrays else [])]
        return [
            helper.make_node("Gemm", inputs, [f"linear{number}"], **gemm),
            helper.make_node("Relu", [f"linear{number}"], [f"relu{number}"]),
        ]

    graph = helper.make_graph(
        [*layer(1, "x"), *layer(2, "relu1")], "head",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", FEATURES])],
        [helper.make_tensor_value_info("relu2", TensorProto.FLOAT, ["N", "K"])],
        [from_array(array, name) for name, array in arrays.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    place = f"{path.name}.data"
    onnx.save(model, path, save_as_external_data=beside, location=place, size_threshold=1024)
    return path


def expected(x: NDArray[np.float32], arrays: Arrays) -> NDArray[np.float64]:
    values = x.astype(np.float64)
    for number in (1, 2):
        product = values @ arrays[f"w{number}"].T.astype(np.float64)
        values = np.maximum(product + arrays.get(f"b{number}", 0.0), 0)
    return values


def operators(graph: bytes | None) -> list[str]:
    assert graph is not None
    return [node.op_type for node in onnx.load_from_string(graph).graph.node]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("count", [1, 2, 7, 33])
def test_it_computes_the_same(tmp_path: Path, bias: bool, count: int) -> None:
    arrays = weights(bias=bias)
    path = write(tmp_path / "head.onnx", arrays)
    assert operators(with_mapped_weights(path)).count("MatMul") == 2
    x = np.random.default_rng(count).normal(0, 1, (count, FEATURES)).astype(np.float32)
    (found,) = inference_session(path, ON_CPU).run(None, {"x": x})
    np.testing.assert_allclose(found, expected(x, arrays), atol=2e-5)
    plain = ort.InferenceSession(path, providers=[CPU])
    np.testing.assert_allclose(found, plain.run(None, {"x": x})[0], atol=2e-5)


def test_a_session_copies_no_large_weights(tmp_path: Path) -> None:
    """Of 32 MB and 64 MB."""
    arrays = weights(4096)
    graph = write(tmp_path / "head.onnx", arrays)
    size = sum(array.nbytes for array in arrays.values())
    trim_memory()  # or a session may lie in what other tests have freed
    before = _private_bytes()
    session = inference_session(graph, ON_CPU)
    copied = _private_bytes() - before
    assert session.get_inputs()[0].name == "x"
    assert copied < size / 8
    session = ort.InferenceSession(graph, providers=[CPU])
    assert _private_bytes() - before - copied > size * 0.9  # else there is nothing to save


def _private_bytes() -> int:
    memory = psutil.Process().memory_info()
    return int(memory.rss - memory.shared)


@pytest.mark.parametrize(
    ("width", "changes"),
    [
        (512, {}),  # FC2 has a quarter of a million weights, FC1 a whole one
        (WIDTH, {"alpha": 0.5}),
        (WIDTH, {"beta": 2.0}),
    ],
)
def test_other_layers_stay_as_they_are(tmp_path: Path, width: int, changes: dict[str, Any]) -> None:
    graph = with_mapped_weights(write(tmp_path / "head.onnx", weights(width), **changes))
    if changes:
        assert graph is None
    else:
        assert operators(graph).count("Gemm") == 1


def test_weights_that_arent_transposed_stay_as_they_are(tmp_path: Path) -> None:
    arrays = weights(2048)
    path = write(tmp_path / "head.onnx", arrays, transB=0)
    assert with_mapped_weights(path) is None


def test_half_precision_stays_as_it_is(tmp_path: Path) -> None:
    halves = {name: array.astype(np.float16) for name, array in weights().items()}
    assert with_mapped_weights(write(tmp_path / "head.onnx", halves)) is None


def test_weights_inside_the_file_stay_as_they_are(tmp_path: Path) -> None:
    """They aren't mapped, and may be half a gigabyte."""
    assert with_mapped_weights(write(tmp_path / "head.onnx", weights(), beside=False)) is None
