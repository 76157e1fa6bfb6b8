"""A bundle whose model costs next to nothing: what is left of a request is the server's work.

    python -m benchmarks.serving.null_model DIRECTORY

The signature is that of VGG-19's graph, uint8[N,224,224,3] -> float32[N,10]. It looks at every 32nd
pixel: softmax of a matrix with 49 x 3 values.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx.numpy_helper import from_array

from models.bundle.bundle import MODEL_FILE
from models.bundle.golden import GoldenSamples
from models.bundle.spec import ModelSpec
from models.bundle.writer import write_manifest
from models.imaging.preprocessing import Preprocessing
from testing.bundles import provenance, write_beside_model

CLASSES = 10
SPEC = ModelSpec(
    labels=tuple(f"class{number}" for number in range(CLASSES)), preprocessing=Preprocessing()
)
_SIZE = SPEC.preprocessing.image_size
_STEP = 32
_VALUES = (_SIZE // _STEP) ** 2 * 3


def write_null_bundle(path: Path) -> Path:
    path.mkdir(parents=True)
    onnx.save_model(_graph(), path / MODEL_FILE)
    seal_random(path, "null")
    return path


def seal_random(path: Path, name: str) -> None:
    """Everything of a bundle but the model, which is there; its golden samples are noise."""
    images = np.random.default_rng(1).integers(0, 256, (3, _SIZE, _SIZE, 3), dtype=np.uint8)
    session = ort.InferenceSession(path / MODEL_FILE, providers=["CPUExecutionProvider"])
    (probabilities,) = session.run([SPEC.output_name], {SPEC.input_name: images})
    golden = GoldenSamples(images=images, probabilities=probabilities)
    write_beside_model(path, SPEC, golden, name)
    write_manifest(path, provenance())


def _graph() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Slice", ["images", "starts", "ends", "axes", "steps"], ["few"]),
        helper.make_node("Cast", ["few"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["float", "shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "null",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", _SIZE, _SIZE, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", CLASSES])],
        [
            _integers("starts", _STEP // 2, _STEP // 2),
            _integers("ends", _SIZE, _SIZE),
            _integers("axes", 1, 2),
            _integers("steps", _STEP, _STEP),
            _integers("shape", -1, _VALUES),
            from_array(_weights(), "weights"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def _weights() -> NDArray[np.float32]:
    """Logits of photographs spread by about 1.5, so that one level of a pixel changes little."""
    normal = np.random.default_rng(0).normal(size=(_VALUES, CLASSES))
    return (normal / 1000).astype(np.float32)


def _integers(name: str, *values: int) -> onnx.TensorProto:
    return helper.make_tensor(name, TensorProto.INT64, [len(values)], values)


if __name__ == "__main__":
    write_null_bundle(Path(sys.argv[1]))
