from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from models.bundle.bundle import FEATURES_OUTPUT, MODEL_FILE, weights_beside
from models.bundle.golden import GoldenSamples
from models.bundle.spec import ModelSpec
from models.bundle.variants import CpuEngine, VariantName, variant_files
from models.export.onnx_variants import (
    Form,
    agreement,
    make_variant,
    measure_speed,
    probabilities,
)
from models.machine import sums_int8_exactly
from testing.bundles import tiny_spec
from testing.small_vgg import pixels, write_small_bundle

pytestmark = pytest.mark.slow

exact_int8 = pytest.mark.skipif(not sums_int8_exactly(), reason="needs VNNI")

IMAGES = pixels(40, first_seed=10)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ModelSpec, GoldenSamples]:
    path = tmp_path_factory.mktemp("small") / "bundle"
    return path, *write_small_bundle(path)


def operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


@pytest.mark.parametrize(
    ("name", "limit", "top1"),
    # The untrained network tells these images apart by the last digits, which 4 bits don't have.
    [
        ("fc8", 0.05, 1.0),
        ("fc4", 0.6, 0.5),
        ("fp16", 0.01, 1.0),
        pytest.param("int8", 0.02, 1.0, marks=exact_int8),
    ],
)
def test_variants_answer_as_float32_does(
    exported: tuple[Path, ModelSpec, GoldenSamples],
    tmp_path: Path,
    name: VariantName,
    limit: float,
    top1: float,
) -> None:
    bundle, spec, _ = exported
    target = tmp_path / "variant.onnx"
    make_variant(name, bundle / MODEL_FILE, target, spec, IMAGES[:8])
    expected = probabilities(Form(bundle / MODEL_FILE), spec, IMAGES)
    found = agreement(expected, probabilities(Form(target), spec, IMAGES))
    assert np.ptp(expected, axis=0).min() > 0.2  # the images tell models apart
    assert 0 < found.max_probability_difference <= limit
    assert found.top1 >= top1
    inputs = onnx.load(target).graph.input
    assert [tensor.name for tensor in inputs] == [spec.input_name]
    assert inputs[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8


@pytest.mark.parametrize(
    ("name", "limit"),
    [("fc8", 0.03), ("fp16", 0.003), pytest.param("int8", 0.05, marks=exact_int8)],
)
def test_variants_give_the_features_too(
    exported: tuple[Path, ModelSpec, GoldenSamples],
    tmp_path: Path,
    name: VariantName,
    limit: float,
) -> None:
    """In float32, within a share of the largest; ncnn's are in test_ncnn_graph.py."""
    bundle, spec, _ = exported
    target = tmp_path / "variant.onnx"
    make_variant(name, bundle / MODEL_FILE, target, spec, IMAGES[:8])
    expected, actual = (features(path, spec) for path in (bundle / MODEL_FILE, target))
    assert actual.dtype == np.float32
    assert actual.shape == expected.shape == (40, 64)
    assert 0 < np.abs(actual - expected).max() <= limit * expected.max()


def features(path: Path, spec: ModelSpec) -> NDArray[np.float32]:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    (values,) = session.run([FEATURES_OUTPUT], {spec.input_name: IMAGES})
    return values  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["fc8", "fp16", "int8", "ncnn"])
def test_variants_of_a_graph_with_its_weights_beside_it(
    exported: tuple[Path, ModelSpec, GoldenSamples], tmp_path: Path, name: VariantName
) -> None:
    """As `vgg19 export` writes it. ONNX Runtime's quantizer looked for them elsewhere."""
    bundle, spec, _ = exported
    source = tmp_path / MODEL_FILE
    onnx.save_model(
        onnx.load(bundle / MODEL_FILE), source, save_as_external_data=True,
        location=weights_beside(source).name, size_threshold=100,
    )  # fmt: skip
    assert weights_beside(source).stat().st_size > source.stat().st_size
    targets = [tmp_path / f"{place}-{variant_files(name)[0]}" for place in ("inside", "beside")]
    for graph, target in zip((bundle / MODEL_FILE, source), targets, strict=True):
        make_variant(name, graph, target, spec, IMAGES[:8])
    engine: CpuEngine = "ncnn" if name == "ncnn" else "onnxruntime"
    inside, beside = (probabilities(Form(target, engine), spec, IMAGES) for target in targets)
    np.testing.assert_allclose(beside, inside, atol=1e-6)


def test_fc8_leaves_convolutions_alone(
    exported: tuple[Path, ModelSpec, GoldenSamples], tmp_path: Path
) -> None:
    bundle, spec, _ = exported
    target = tmp_path / "fc8.onnx"
    make_variant("fc8", bundle / MODEL_FILE, target, spec, IMAGES[:0])
    before, after = operators(bundle / MODEL_FILE), operators(target)
    assert after.count("Conv") == before.count("Conv") == 2
    assert after.count("MatMulNBits") == before.count("Gemm") == 3
    assert target.stat().st_size < 0.4 * (bundle / MODEL_FILE).stat().st_size


def test_fp16_keeps_float32_where_it_would_overflow(
    exported: tuple[Path, ModelSpec, GoldenSamples], tmp_path: Path
) -> None:
    """The first layer made to give values beyond 65504, the second to bring them back."""
    bundle, spec, _ = exported
    model = onnx.load(bundle / MODEL_FILE)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    first, second = [node for node in model.graph.node if node.op_type == "Conv"]
    for node, factor in ((first, 1e5), (second, 1e-5)):
        value = onnx.numpy_helper.to_array(weights[node.input[1]]) * np.float32(factor)
        weights[node.input[1]].CopyFrom(onnx.numpy_helper.from_array(value, node.input[1]))
    source, target = tmp_path / "large.onnx", tmp_path / "fp16.onnx"
    onnx.save_model(model, source)
    make_variant("fp16", source, target, spec, IMAGES[:4])
    expected = probabilities(Form(source), spec, IMAGES)
    found = agreement(expected, probabilities(Form(target), spec, IMAGES))
    assert found.max_probability_difference < 0.1  # NaN, if the first one were float16


def test_agreement() -> None:
    expected = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.7, 0.3]], np.float32)
    other = np.array([[0.8, 0.2], [0.6, 0.4], [0.2, 0.8], [np.nan, np.nan]], np.float32)
    assert agreement(expected, expected).top1 == 1.0
    assert agreement(expected[:3], other[:3]).max_probability_difference == pytest.approx(0.2)
    assert agreement(expected, other).top1 == 0.5  # another label, and none
    assert not agreement(expected, other).max_probability_difference <= 1


def test_speed_is_measured_of_each(exported: tuple[Path, ModelSpec, GoldenSamples]) -> None:
    bundle, spec, _ = exported
    speeds = measure_speed(
        {"a": Form(bundle / MODEL_FILE), "b": Form(bundle / MODEL_FILE)}, spec, rounds=2
    )
    assert set(speeds) == {"a", "b"}
    for speed in speeds.values():
        assert min(speed.load_s, speed.batch1_s, speed.batch8_s) > 0


def test_threads_that_still_spin_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """ncnn took 0.135 s behind a run of ONNX Runtime, whose threads were on its cores, and 0.1 s
    alone."""
    now, spinning_until, spinning = 0.0, 0.0, ""

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    def load(form: Form, wanted: list[str], spec: ModelSpec) -> Callable[[NDArray[np.uint8]], None]:
        def run(images: NDArray[np.uint8]) -> None:
            nonlocal now, spinning_until, spinning
            disturbed = now < spinning_until and spinning != form.path.name
            now += len(images) * (0.04 if disturbed else 0.03)
            spinning_until, spinning = now + 0.05, form.path.name

        return run

    monkeypatch.setattr("models.export.onnx_variants._load", load)
    monkeypatch.setattr("models.export.onnx_variants.time.perf_counter", lambda: now)
    monkeypatch.setattr("models.export.onnx_variants.time.sleep", sleep)
    speeds = measure_speed({"a": Form(Path("a")), "b": Form(Path("b"))}, tiny_spec())
    for speed in speeds.values():
        assert speed.batch1_s == pytest.approx(0.03)
        assert speed.batch8_s == pytest.approx(0.03)


@pytest.fixture(scope="module")
def fp16(
    exported: tuple[Path, ModelSpec, GoldenSamples], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    bundle, spec, _ = exported
    target = tmp_path_factory.mktemp("fp16") / "variant.onnx"
    make_variant("fp16", bundle / MODEL_FILE, target, spec, IMAGES[:8])
    return target


def test_fp16_normalises_in_float32_without_a_detour(fp16: Path) -> None:
    graph = onnx.load(fp16).graph
    producers = {name: node for node in graph.node for name in node.output}
    half = onnx.TensorProto.FLOAT16
    casts = [node for node in graph.node if node.op_type == "Cast"]
    detours = [
        cast.name
        for cast in casts
        if cast.attribute[0].i == onnx.TensorProto.FLOAT
        and (there := producers.get(cast.input[0])) is not None
        and there.op_type == "Cast"
        and there.attribute[0].i == half
    ]
    assert detours == []
    read = {name for node in graph.node for name in node.input}
    read |= {output.name for output in graph.output}
    assert all(cast.output[0] in read for cast in casts)


def test_fp16_pools_before_relu(
    exported: tuple[Path, ModelSpec, GoldenSamples], fp16: Path
) -> None:
    """Which is a quarter of the work on a GPU; that the answers stay is tested above."""
    bundle, _, _ = exported

    def pairs(path: Path) -> list[tuple[str, str]]:
        graph = onnx.load(path).graph
        producers = {name: node.op_type for node in graph.node for name in node.output}
        wanted = ("MaxPool", "Relu")
        return [
            (producers.get(node.input[0], ""), node.op_type)
            for node in graph.node
            if node.op_type in wanted and producers.get(node.input[0], "") in wanted
        ]

    assert set(pairs(bundle / MODEL_FILE)) == {("Relu", "MaxPool")}
    assert pairs(fp16) == [("MaxPool", "Relu")] * len(pairs(bundle / MODEL_FILE))
