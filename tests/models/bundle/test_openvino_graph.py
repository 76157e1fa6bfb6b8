"""The graph itself is compared with ONNX Runtime's in tests/training/export/test_variants.py."""

from __future__ import annotations

import platform
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from models.bundle import openvino_graph
from models.bundle.bundle import weights_beside
from models.bundle.openvino_graph import OpenVinoError, OpenVinoGraph, computes_in_bf16
from testing.mapped import resident_kb
from testing.small_vgg import pixels, write_small_bundle

pytest.importorskip("openvino", reason="the extra openvino is not installed")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    bundle = tmp_path_factory.mktemp("openvino") / "bundle"
    write_small_bundle(bundle)
    return bundle / "model.onnx"


def test_wanted_outputs_in_their_order_and_only_those_there_are(model: Path) -> None:
    graph = OpenVinoGraph(model, ["features", "nothing", "probabilities"], 1)
    assert graph.outputs == ["features", "probabilities"]
    features, probabilities = graph(pixels(3, 0))
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    expected = session.run(["features", "probabilities"], {"images": pixels(3, 0)})
    np.testing.assert_allclose(features, expected[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(probabilities, expected[1], atol=1e-5)
    assert probabilities.dtype == np.float32


def test_answers_of_before_stay_as_they_are(model: Path) -> None:
    graph = OpenVinoGraph(model, ["probabilities"], 1)
    (first,) = graph(pixels(2, 0))
    kept = first.copy()
    graph(pixels(2, 50))
    np.testing.assert_array_equal(first, kept)


@pytest.mark.skipif(sys.platform != "linux", reason="where it maps files, Linux says")
def test_weights_that_are_arranged_take_no_memory_where_they_are_mapped(
    model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    weights = weights_beside(path)
    onnx.save_model(
        onnx.load(model), path, save_as_external_data=True, location=weights.name, size_threshold=0
    )
    graph = OpenVinoGraph(path, ["probabilities"], 1)
    expected = [graph(pixels(count, 0))[0] for count in (1, 4, 3)]
    assert resident_kb(weights) == 0  # and mapped all the same
    again = [graph(pixels(count, 0))[0] for count in (1, 4, 3)]
    assert resident_kb(weights) == 0  # other batch sizes don't read them either
    for one, other in zip(expected, again, strict=True):
        np.testing.assert_array_equal(one, other)


def test_threads_do_not_mix_their_answers(model: Path) -> None:
    graph = OpenVinoGraph(model, ["probabilities"], 2)
    batches = [pixels(1 + seed, 10 * seed) for seed in range(4)]
    expected = [graph(batch)[0] for batch in batches]
    wrong: list[int] = []

    def work(seed: int) -> None:
        for _ in range(20):
            (answers,) = graph(batches[seed])
            if not np.allclose(answers, expected[seed], atol=1e-5):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_what_is_no_graph_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(OpenVinoError, match="OpenVINO can't load") as error:
        OpenVinoGraph(tmp_path / "model.onnx", ["probabilities"], 1)
    assert "\n" not in str(error.value)


def test_bf16_where_the_processor_has_none(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_graph, "computes_in_bf16", lambda: False)
    with pytest.raises(OpenVinoError, match="finds no bfloat16 in this processor"):
        OpenVinoGraph(model, ["probabilities"], 1, bf16=True)


def test_bf16_is_what_linux_says_of_the_processor() -> None:
    if sys.platform != "linux" or platform.machine() != "x86_64":
        pytest.skip("Linux on x86-64 tells")
    flags = Path("/proc/cpuinfo").read_text()
    if "avx512_bf16" in flags:
        assert computes_in_bf16()
    elif "avx512" not in flags:
        assert not computes_in_bf16()


def test_nothing_is_reported_to_anybody(model: Path, tmp_path: Path) -> None:
    """OpenVINO reports each import of it, if a package for that is there."""
    package = tmp_path / "openvino_telemetry"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('telemetry was imported')")
    code = (
        "from pathlib import Path; import numpy as np\n"
        "from models.bundle.openvino_graph import OpenVinoGraph\n"
        f"graph = OpenVinoGraph(Path({str(model)!r}), ['probabilities'], 1)\n"
        "print(graph(np.zeros((1, 32, 32, 3), np.uint8))[0].sum())"
    )
    root = str(Path(__file__).parents[3])
    result = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": f"{tmp_path}:{root}"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) == pytest.approx(1, abs=1e-4)
