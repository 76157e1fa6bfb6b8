from __future__ import annotations

import builtins
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from models.bundle.bundle import FEATURES_OUTPUT, MODEL_FILE
from models.bundle.ncnn_graph import NcnnError, NcnnGraph
from models.bundle.spec import ModelSpec
from models.export.ncnn_export import write_ncnn
from models.export.onnx_variants import Form, probabilities
from testing.small_vgg import pixels, write_small_bundle

pytest.importorskip("ncnn", reason="the extra cpu-fast is not installed")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, ModelSpec]:
    bundle = tmp_path_factory.mktemp("ncnn") / "bundle"
    spec, _ = write_small_bundle(bundle)
    param = bundle / "model.ncnn.param"
    write_ncnn(bundle / MODEL_FILE, param)
    return bundle / MODEL_FILE, param, spec


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3, 9])
@pytest.mark.parametrize("threads", [1, 2])
def test_answers_are_those_of_onnx_runtime(
    files: tuple[Path, Path, ModelSpec], count: int, threads: int
) -> None:
    """Normalisation, temperature and softmax included."""
    model, param, spec = files
    images = pixels(count, first_seed=50)
    answers, features = NcnnGraph(param, spec, threads)(images)
    assert answers.dtype == np.float32
    np.testing.assert_allclose(answers, probabilities(Form(model), spec, images), atol=1e-5)
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    (expected,) = session.run([FEATURES_OUTPUT], {spec.input_name: images})
    assert features is not None
    assert expected.max() > 0
    np.testing.assert_allclose(features, expected, atol=1e-4)


def test_files_from_before_have_no_features(
    files: tuple[Path, Path, ModelSpec], tmp_path: Path
) -> None:
    _, param, spec = files
    old = tmp_path / param.name
    old.write_text(param.read_text().replace(" features ", " before "))
    shutil.copy(param.with_suffix(".bin"), tmp_path)
    assert NcnnGraph(old, spec, 1)(pixels(2))[1] is None


def test_a_damaged_file(files: tuple[Path, Path, ModelSpec], tmp_path: Path) -> None:
    param = tmp_path / "model.ncnn.param"
    param.write_text("no network")
    with pytest.raises(NcnnError, match="can't load"):
        NcnnGraph(param, files[2], 1)


def test_not_installed(
    files: tuple[Path, Path, ModelSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def missing(name: str, *arguments: Any) -> Any:
        if name == "ncnn":
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(NcnnError, match="cpu-fast"):
        NcnnGraph(files[1], files[2], 1)
