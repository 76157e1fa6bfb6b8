"""Decisions only: no graph is loaded."""

from __future__ import annotations

import pytest

from models.bundle.variants import CpuEngine, Variant, VariantName, Variants
from serving.engine.choice import Choice, Machine, choose_variant
from serving.engine.providers import GpuOptions, Precision, SessionError

FULL = Machine(lambda: True, lambda: True, has_exact_int8=lambda: True)
WITHOUT_BF16 = Machine(has_openvino=lambda: True, has_bf16=lambda: False)
BARE = Machine(has_openvino=lambda: False, has_bf16=lambda: False)
AUTO = GpuOptions(precision="auto")


def variants(
    *names: VariantName, recommended: VariantName | None = None, on: CpuEngine = "onnxruntime"
) -> Variants:
    return Variants(
        variants=[
            Variant(
                name=name,
                size_bytes=1,
                images=200,
                top1_agreement=1.0,
                max_probability_difference=0.0,
                tolerance=1e-4,
            )
            for name in names
        ],
        recommended=recommended,
        engine=on,
    )


def told(choice: Choice) -> tuple[str | None, str | None]:
    return None if choice.variant is None else choice.variant.name, choice.engine


@pytest.mark.parametrize(
    ("gpu", "expected"),
    [
        (GpuOptions(), None),
        (GpuOptions(precision="tf32"), None),
        (GpuOptions(precision="float16", tensorrt=True), None),  # TensorRT makes its own
        (GpuOptions(precision="float16"), "fp16"),
        (GpuOptions(precision="fc8"), "fc8"),
        (AUTO, "fc8"),
    ],
)
def test_by_precision(gpu: GpuOptions, expected: str | None) -> None:
    found = variants("fp16", "fc8", recommended="fc8")
    assert told(choose_variant(gpu, found, "onnxruntime", BARE)) == (expected, "onnxruntime")


def test_auto_without_a_recommendation_is_float32() -> None:
    assert told(choose_variant(AUTO, variants("fc8"), "onnxruntime", FULL)) == (None, "onnxruntime")


def test_what_was_measured_on_a_processor_is_not_taken_for_a_gpu() -> None:
    """ncnn would run on the CPU beside the GPU that was asked for."""
    found = variants("fc8", "ncnn", recommended="ncnn")
    assert told(choose_variant(AUTO, found, None, FULL)) == (None, None)
    with_fp16 = variants("fp16", "ncnn", recommended="ncnn")
    assert told(choose_variant(AUTO, with_fp16, None, FULL)) == ("fp16", None)
    assert told(choose_variant(AUTO, found, "onnxruntime", FULL)) == ("ncnn", "ncnn")
    assert told(choose_variant(GpuOptions(precision="fc8"), found, None, FULL)) == ("fc8", None)


def test_ncnn() -> None:
    choice = choose_variant(GpuOptions(), variants("fc8", "ncnn"), "ncnn", BARE)
    assert told(choice) == ("ncnn", "ncnn")
    assert choice.variant is not None
    assert choice.variant.files == ("model.ncnn.param", "model.ncnn.bin")


@pytest.mark.parametrize(
    ("precision", "engine", "expected"),
    [
        ("float32", "openvino", (None, "openvino")),
        ("int8", "openvino", ("int8", "openvino")),
        ("bf16", "openvino", ("bf16", "openvino")),
        ("bf16", "onnxruntime", ("bf16", "openvino")),  # nothing else computes in it
        ("int8", "onnxruntime", ("int8", "onnxruntime")),
    ],
)
def test_openvino(
    precision: Precision, engine: CpuEngine, expected: tuple[str | None, str]
) -> None:
    found = variants("int8", "bf16")
    assert told(choose_variant(GpuOptions(precision=precision), found, engine, FULL)) == expected


@pytest.mark.parametrize(
    ("recommended", "on", "machine", "expected"),
    [
        ("bf16", "openvino", FULL, ("bf16", "openvino")),
        ("bf16", "openvino", WITHOUT_BF16, (None, "openvino")),
        ("bf16", "openvino", BARE, (None, "onnxruntime")),
        ("int8", "openvino", WITHOUT_BF16, ("int8", "openvino")),
        ("int8", "openvino", BARE, ("int8", "onnxruntime")),
        (None, "openvino", FULL, (None, "openvino")),
        (None, "openvino", BARE, (None, "onnxruntime")),
        ("int8", "onnxruntime", FULL, ("int8", "onnxruntime")),
        ("ncnn", "ncnn", FULL, ("ncnn", "ncnn")),
    ],
)
def test_auto_follows_the_record_as_far_as_the_machine_can(
    recommended: VariantName | None,
    on: CpuEngine,
    machine: Machine,
    expected: tuple[str | None, str],
) -> None:
    found = variants("int8", "bf16", "ncnn", recommended=recommended, on=on)
    assert told(choose_variant(AUTO, found, "onnxruntime", machine)) == expected


@pytest.mark.parametrize(
    ("recommended", "expected"), [("int8", "int8"), ("bf16", "bf16"), ("ncnn", None), ("fc8", None)]
)
def test_auto_on_openvino_takes_what_it_can_run(
    recommended: VariantName, expected: str | None
) -> None:
    found = variants("int8", "bf16", "ncnn", "fc8", recommended=recommended)
    assert told(choose_variant(AUTO, found, "openvino", FULL)) == (expected, "openvino")


@pytest.mark.parametrize(
    ("precision", "engine", "machine", "words"),
    [
        ("int8", "onnxruntime", FULL, "--variant int8"),
        ("bf16", "openvino", FULL, "--variant bf16"),
        ("float32", "ncnn", FULL, "--variant ncnn"),
        ("fc8", "ncnn", FULL, "has float32, auto, but VGG19_PRECISION is fc8"),
        ("fc8", "openvino", FULL, "has float32, bf16, int8, auto, but VGG19_PRECISION is fc8"),
        ("bf16", None, FULL, "no convolution on a GPU; choose float16"),
    ],
)
def test_what_is_not_there(
    precision: Precision, engine: CpuEngine | None, machine: Machine, words: str
) -> None:
    with pytest.raises(SessionError, match=words):
        choose_variant(GpuOptions(precision=precision), variants("fc8"), engine, machine)


def test_a_processor_without_bf16_says_so() -> None:
    gpu = GpuOptions(precision="bf16")
    with pytest.raises(SessionError, match="doesn't compute in it .*choose float32, int8 or auto"):
        choose_variant(gpu, variants("bf16"), "openvino", WITHOUT_BF16)


def test_openvino_is_only_asked_where_it_matters() -> None:
    def never() -> bool:
        raise AssertionError

    machine = Machine(never, never)
    assert choose_variant(GpuOptions(), variants("bf16"), "onnxruntime", machine).variant is None
    found = variants("fc8", recommended="fc8")
    assert told(choose_variant(AUTO, found, "onnxruntime", machine)) == ("fc8", "onnxruntime")


WITHOUT_VNNI = Machine(lambda: True, lambda: False, has_exact_int8=lambda: False)


def int8(*, needs_vnni: bool) -> Variants:
    (made,) = variants("int8").variants
    return Variants(
        variants=[made.model_copy(update={"needs_vnni": needs_vnni})], recommended="int8"
    )


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_int8_that_would_overflow_is_refused(engine: CpuEngine) -> None:
    gpu = GpuOptions(precision="int8")
    with pytest.raises(SessionError, match=r"no VNNI.*choose float32, fc8 or auto"):
        choose_variant(gpu, int8(needs_vnni=True), engine, WITHOUT_VNNI)
    assert told(choose_variant(gpu, int8(needs_vnni=True), engine, FULL)) == ("int8", engine)
    # An older one, whose weights have 7 bits.
    older = choose_variant(gpu, int8(needs_vnni=False), engine, WITHOUT_VNNI)
    assert told(older) == ("int8", engine)


def test_auto_takes_float32_in_its_place() -> None:
    choice = choose_variant(AUTO, int8(needs_vnni=True), "onnxruntime", WITHOUT_VNNI)
    assert told(choice) == (None, "onnxruntime")
