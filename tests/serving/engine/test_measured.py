from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from models.bundle.bundle import MODEL_FILE, Bundle, open_bundle
from models.bundle.variants import VARIANTS_FILE, Variant, VariantName, Variants
from models.bundle.writer import write_manifest
from models.export.onnx_variants import make_variant
from models.machine import processor_kind
from serving.engine.choice import Choice, Machine
from serving.engine.fastest import candidates, fastest
from serving.engine.measured import measure_if_unknown
from serving.engine.options import SessionOptions
from serving.engine.providers import CPU, GpuOptions
from serving.engine.session import what_to_run
from testing.bundles import provenance
from testing.small_vgg import pixels, write_small_bundle

pytestmark = pytest.mark.slow

AUTO = SessionOptions([(CPU, {})], None, 1, 8, GpuOptions(precision="auto"))


def variant(name: VariantName, tolerance: float = 0.2) -> Variant:
    return Variant(
        name=name, size_bytes=1, images=200, top1_agreement=1.0,
        max_probability_difference=0.0, tolerance=tolerance,
    )  # fmt: skip


Write = Callable[..., Bundle]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("small") / "bundle"
    spec, _ = write_small_bundle(path)
    make_variant("fc8", path / MODEL_FILE, path / "model.fc8.onnx", spec, pixels(1))
    return path


@pytest.fixture
def write(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def write(processor: str, tolerance: float = 0.2) -> Bundle:
        path = Path(shutil.copytree(small, tmp_path / "bundle"))
        record = Variants(
            variants=[variant("fc8", tolerance)], recommended="fc8", processor=processor
        )
        record.write(path / VARIANTS_FILE)
        write_manifest(path, provenance())
        return open_bundle(path)

    return write


@pytest.fixture
def exported(write: Write) -> Bundle:
    """Recommends fc8, measured on a processor that isn't this one."""
    return write("x86_64 sse2")


def kept(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "cache").rglob("*.json"))


def test_measures_once_where_the_processor_is_another(
    exported: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        measure_if_unknown(exported, AUTO)
    (place,) = kept(tmp_path)
    assert "x86_64 sse2" in caplog.text
    assert str(place) in caplog.text
    before = place.stat()
    caplog.clear()
    measure_if_unknown(exported, AUTO)
    assert place.stat() == before
    assert not caplog.text


def test_what_was_measured_is_run(exported: Bundle, tmp_path: Path) -> None:
    """Whatever this machine finds, a recorded choice decides, not the export's."""
    assert recommended(exported) == ("fc8", "onnxruntime")
    measure_if_unknown(exported, AUTO)
    (place,) = kept(tmp_path)
    place.write_text('{"variant": null, "engine": "onnxruntime", "why": "measured"}')
    assert recommended(exported) == (None, "onnxruntime")
    place.write_text("damaged")
    assert recommended(exported) == ("fc8", "onnxruntime")


def recommended(bundle: Bundle) -> tuple[str | None, str | None]:
    choice = what_to_run(bundle, AUTO)
    return choice.variant.name if choice.variant else None, choice.engine


@pytest.mark.parametrize("processor", ["", processor_kind()])
def test_nothing_is_measured_where_it_was_exported_or_by_an_older_export(
    write: Write, tmp_path: Path, processor: str
) -> None:
    measure_if_unknown(write(processor), AUTO)
    assert kept(tmp_path) == []


@pytest.mark.parametrize("precision", ["float32", "fc8"])
def test_nothing_is_measured_unless_asked_for(
    exported: Bundle, tmp_path: Path, precision: str
) -> None:
    gpu = GpuOptions(precision="fc8" if precision == "fc8" else "float32")
    measure_if_unknown(exported, SessionOptions([(CPU, {})], None, 1, 8, gpu))
    assert kept(tmp_path) == []


@pytest.mark.parametrize("program", ["/bin/false", "/bin/true"])  # the latter prints nothing
def test_a_measurement_that_fails_leaves_the_recommendation(
    exported: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    program: str,
) -> None:
    monkeypatch.setattr("sys.executable", program)
    measure_if_unknown(exported, AUTO)
    assert "can't be measured" in caplog.text
    assert kept(tmp_path) == []
    assert recommended(exported) == ("fc8", "onnxruntime")


def test_a_cache_that_cant_be_written_leaves_the_recommendation(
    exported: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file in its place")
    measure_if_unknown(exported, AUTO)
    assert "can't be measured" in caplog.text
    assert recommended(exported) == ("fc8", "onnxruntime")


def test_a_graph_that_answers_otherwise_here_is_left_out(write: Write) -> None:
    """As int8 does on a processor whose sums overflow."""
    bundle = write("elsewhere", tolerance=1e-9)
    (fc8,) = bundle.variants().variants
    choices = iter([Choice(fc8, "onnxruntime"), Choice(None, "onnxruntime")])
    found = fastest(bundle, 1, choices)
    assert found.variant is None
    assert "fc8" not in found.why


@pytest.mark.parametrize(
    ("has", "engine", "expected"),
    [
        (("openvino", "bf16"), "onnxruntime", "float32 float32-ov fc8 int8 int8-ov bf16-ov"),
        (("openvino",), "onnxruntime", "float32 float32-ov fc8 int8 int8-ov"),
        ((), "onnxruntime", "float32 fc8 int8"),
        (("openvino", "bf16"), "openvino", "float32-ov int8-ov bf16-ov"),
    ],
)
def test_what_may_be_the_fastest(has: tuple[str, ...], engine: str, expected: str) -> None:
    here = Machine(has_openvino=lambda: "openvino" in has, has_bf16=lambda: "bf16" in has)
    variants = Variants(variants=[variant(one) for one in ("fc8", "fc4", "fp16", "int8", "bf16")])
    found = candidates(variants, "openvino" if engine == "openvino" else "onnxruntime", here)
    names = [
        (one.variant.name if one.variant else "float32")
        + ("-ov" if one.engine == "openvino" else "")
        for one in found
    ]
    assert " ".join(names) == expected
