from __future__ import annotations

from pathlib import Path

import pytest

from models.bundle.spec import ModelSpec
from models.export.onnx_export import ServingModule, export
from models.imaging.preprocessing import Preprocessing
from serving.engine.graph_check import check_graph
from testing.small_vgg import thin_vgg19


@pytest.mark.slow
@pytest.mark.parametrize(
    "size", [32, *(pytest.param(size, marks=pytest.mark.exhaustive) for size in (100, 224, 300))]
)
def test_exports_of_any_image_size_pass(tmp_path: Path, size: int) -> None:
    """Pooling to 7 x 7 is exported in other operators where 7 doesn't divide."""
    preprocessing = Preprocessing(image_size=size, resize_size=size)
    spec = ModelSpec(labels=("a", "b"), preprocessing=preprocessing)
    path = tmp_path / "model.onnx"
    export(ServingModule(thin_vgg19(num_classes=2).eval(), spec), spec, path)
    check_graph(path)
