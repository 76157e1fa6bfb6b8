from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.numpy_helper import from_array

from models.errors import BundleError
from serving.engine.graph_check import check_graph

MATRIX = from_array(np.eye(4, dtype=np.float32), "matrix")


def save(path: Path, *nodes: onnx.NodeProto, **model: object) -> Path:
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        [MATRIX],
    )
    onnx.save_model(helper.make_model(graph, **model), path)
    return path


PRODUCT = helper.make_node("MatMul", ["x", "matrix"], ["y"])


def test_what_an_export_holds_is_allowed(tmp_path: Path) -> None:
    check_graph(save(tmp_path / "model.onnx", PRODUCT))
    nbits = helper.make_node("MatMulNBits", ["x", "matrix"], ["y"], domain="com.microsoft")
    check_graph(save(tmp_path / "fc8.onnx", nbits))


@pytest.mark.parametrize(
    ("kind", "domain", "shown"),
    [
        ("Loop", "", "Loop"),
        ("If", "", "If"),
        ("PyOp", "ai.onnx.contrib", "ai.onnx.contrib.PyOp"),
        ("StringNormalizer", "", "StringNormalizer"),
        ("MatMul", "evil", "evil.MatMul"),
        ("Gelu", "com.microsoft", "com.microsoft.Gelu"),
    ],
)
def test_operators_that_are_not_allowed(tmp_path: Path, kind: str, domain: str, shown: str) -> None:
    node = helper.make_node(kind, ["x"], ["y"], domain=domain)
    with pytest.raises(BundleError, match=f"has the operator '{shown}'; it was not made by"):
        check_graph(save(tmp_path / "model.onnx", node))


def test_graphs_inside_operators_and_functions(tmp_path: Path) -> None:
    inner = helper.make_graph([helper.make_node("If", [], [])], "inner", [], [])
    node = helper.make_node("MatMul", ["x", "matrix"], ["y"], hidden=inner)
    with pytest.raises(BundleError, match="has a graph inside 'MatMul'"):
        check_graph(save(tmp_path / "model.onnx", node))
    function = helper.make_function(
        "own", "MatMul", ["a"], ["b"], [], [helper.make_opsetid("", 20)]
    )
    with pytest.raises(BundleError, match="defines operators of its own"):
        check_graph(save(tmp_path / "model.onnx", PRODUCT, functions=[function]))


@pytest.mark.parametrize("place", ["other.data", "../model.onnx.data", "/etc/passwd", ""])
def test_weights_elsewhere(tmp_path: Path, place: str) -> None:
    path = save(tmp_path / "model.onnx", PRODUCT)
    model = onnx.load(path)
    (tensor,) = model.graph.initializer
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=place)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(BundleError, match=f"has weights in '{place}'"):
        check_graph(path)


@pytest.mark.parametrize(
    ("kept", "problem"),
    [
        (None, "data has 0 bytes, and model.onnx needs 64; export or register"),
        (63, "data has 63 bytes, and model.onnx needs 64; export or register"),
        (64, None),
    ],
)
def test_weights_that_were_cut_off(tmp_path: Path, kept: int | None, problem: str | None) -> None:
    path = save(tmp_path / "model.onnx", PRODUCT)
    data = path.with_name("model.onnx.data")
    onnx.save_model(
        onnx.load(path), path, save_as_external_data=True, location=data.name, size_threshold=0
    )
    content = data.read_bytes()
    data.unlink()
    if kept is not None:
        data.write_bytes(content[:kept])
    if problem is None:
        check_graph(path)
        return
    with pytest.raises(BundleError, match=problem):
        check_graph(path)


def test_weights_at_no_place(tmp_path: Path) -> None:
    path = save(tmp_path / "model.onnx", PRODUCT)
    model = onnx.load(path)
    model.graph.initializer[0].external_data.add(key="offset", value="here")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(BundleError, match="at no place in a file; it was not made by"):
        check_graph(path)


def test_in_a_constant_as_well(tmp_path: Path) -> None:
    value = from_array(np.zeros(1, np.float32))
    value.external_data.add(key="location", value="/etc/passwd")
    node = helper.make_node("Constant", [], ["y"], value=value)
    with pytest.raises(BundleError, match="has weights in '/etc/passwd'"):
        check_graph(save(tmp_path / "model.onnx", node))


@pytest.mark.parametrize("part", ["values", "indices"])
@pytest.mark.parametrize("where", ["initializer", "constant"])
def test_in_sparse_tensors_as_well(tmp_path: Path, part: str, where: str) -> None:
    sparse = helper.make_sparse_tensor(
        from_array(np.ones(1, np.float32), "sparse"), from_array(np.zeros(1, np.int64)), [4]
    )
    getattr(sparse, part).external_data.add(key="location", value="/etc/passwd")
    path = save(tmp_path / "model.onnx", PRODUCT)
    model = onnx.load(path)
    if where == "initializer":
        model.graph.sparse_initializer.append(sparse)
    else:
        model.graph.node.append(helper.make_node("Constant", [], ["c"], sparse_value=sparse))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(BundleError, match="has weights in '/etc/passwd'"):
        check_graph(path)


@pytest.mark.parametrize("content", [b"\xff" * 100, b"\x3a\xff\xff\xff\xff\x0f"])
def test_no_onnx(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(BundleError, match="is not an ONNX file"):
        check_graph(tmp_path / "model.onnx")
