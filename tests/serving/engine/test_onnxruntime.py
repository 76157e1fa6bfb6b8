from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from serving.engine.onnxruntime import inference_session
from serving.engine.options import SessionOptions
from serving.engine.providers import CPU

_WIDTH = 512


@pytest.fixture
def product(tmp_path: Path) -> Path:
    """A graph with work for two threads."""
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [_WIDTH, _WIDTH])
        for name in ("x", "y")
    )
    node = helper.make_node("MatMul", ["x", "x"], ["y"])
    model = helper.make_model(
        helper.make_graph([node], "product", [x], [y]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.save(model, tmp_path / "product.onnx")
    return tmp_path / "product.onnx"


def _cpu_s_after_a_run(session: ort.InferenceSession) -> float:
    """Of all threads of this process, in the 0.2 s after a run."""
    session.run(None, {"x": np.ones((_WIDTH, _WIDTH), np.float32)})
    started = time.process_time()
    time.sleep(0.2)
    return time.process_time() - started


def test_between_runs_its_threads_leave_the_cores_to_others(product: Path) -> None:
    ours = inference_session(product, SessionOptions([(CPU, {})], None, 2, 8))
    assert min(_cpu_s_after_a_run(ours) for _ in range(3)) < 0.005
    del ours
    options = ort.SessionOptions()
    options.intra_op_num_threads = 2
    plain = ort.InferenceSession(product, options, providers=[CPU])
    assert max(_cpu_s_after_a_run(plain) for _ in range(3)) > 0.005  # else there is nothing to save
