"""Which graph of a model is run, and by which engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from models.bundle.openvino_graph import computes_in_bf16, openvino_is_installed
from models.bundle.variants import CpuEngine, Variant, VariantName, Variants
from models.machine import sums_int8_exactly
from serving.engine.providers import GpuOptions, Precision, SessionError

_VARIANTS: dict[Precision, VariantName] = {
    "float16": "fp16",
    "bf16": "bf16",
    "fc8": "fc8",
    "fc4": "fc4",
    "int8": "int8",
}
# Which precisions each engine has; ONNX Runtime has those of all variants' graphs.
_NCNN: tuple[Precision, ...] = ("float32", "auto")
_OPENVINO: tuple[Precision, ...] = ("float32", "bf16", "int8", "auto")


@dataclass(frozen=True)
class Machine:
    """What may be run on the CPU here. (Asked only where it matters: OpenVINO is loaded for it.)"""

    has_openvino: Callable[[], bool] = openvino_is_installed
    has_bf16: Callable[[], bool] = computes_in_bf16
    has_exact_int8: Callable[[], bool] = sums_int8_exactly


@dataclass(frozen=True)
class Choice:
    """What is run of a model. variant: None is its float32 graph. engine: on the CPU; None: it is
    for a GPU. second: what runs images again where the variant has a cascade."""

    variant: Variant | None
    engine: CpuEngine | None
    second: Choice | None = None


def choose_variant(
    gpu: GpuOptions, variants: Variants, engine: CpuEngine | None, machine: Machine
) -> Choice:
    """What is to be run.

    `auto` on a CPU follows what `vgg19 export --variant auto` found to be the fastest, if this
    machine can run it.

    Args:
        engine: of the processor, as it is set; None: it runs on a GPU.

    Raises:
        SessionError: the model wasn't exported with the variant, or there is none such.
    """
    if engine == "ncnn":
        _check_precision(gpu, "ncnn", _NCNN)
        return Choice(_find(variants, "ncnn", "VGG19_CPU_ENGINE is ncnn", "onnxruntime"), "ncnn")
    if engine == "openvino":
        _check_precision(gpu, "openvino", _OPENVINO)
    if gpu.precision == "bf16":
        return _in_bf16(variants, engine, machine)
    if gpu.precision == "auto":
        return _recommended(variants, engine, machine)
    if gpu.precision in ("float32", "tf32") or (gpu.precision == "float16" and gpu.tensorrt):
        return Choice(None, engine)
    asked = f"VGG19_PRECISION is {gpu.precision}"
    variant = _find(variants, _VARIANTS[gpu.precision], asked, "float32")
    if engine is not None and not runs_rightly(variant, machine):
        raise SessionError(
            f"{asked}, but this processor has no VNNI, without which sums in this model's int8 "
            "graph overflow; choose float32, fc8 or auto"
        )
    return with_second(Choice(variant, engine), variants, machine)


def with_second(choice: Choice, variants: Variants, machine: Machine) -> Choice:
    """The choice, and what runs images again, if its variant has a cascade: in bfloat16 where that
    was accepted and this machine computes in it, otherwise in float32."""
    cascade = None if choice.variant is None else choice.variant.cascade
    if cascade is None:
        return choice
    second = Choice(None, None if choice.engine is None else "onnxruntime")
    bf16 = variants.find("bf16") if cascade.second == "bf16" else None
    on_cpu = choice.engine is not None
    if bf16 is not None and on_cpu and machine.has_openvino() and machine.has_bf16():
        second = Choice(bf16, "openvino")
    return replace(choice, second=second)


def runs_rightly(variant: Variant, machine: Machine) -> bool:
    """Whether this processor computes a variant without overflow."""
    return not variant.needs_vnni or machine.has_exact_int8()


def _recommended(variants: Variants, engine: CpuEngine | None, machine: Machine) -> Choice:
    if engine is None:
        return Choice(variants.find("fp16"), None)
    best = variants.recommended
    if engine == "openvino" and best not in ("bf16", "int8"):
        best = None
    fastest = "openvino" if engine == "openvino" else variants.engine
    if fastest == "openvino" and not machine.has_openvino():
        # The same graph, if there is one for it.
        best, fastest = (None if best == "bf16" else best), "onnxruntime"
    if best == "bf16" and not machine.has_bf16():
        best = None
    variant = None if best is None else variants.find(best)
    if variant is not None and not runs_rightly(variant, machine):
        variant = None
    choice = Choice(variant, "ncnn" if best == "ncnn" else fastest)
    return with_second(choice, variants, machine)


def _in_bf16(variants: Variants, engine: CpuEngine | None, machine: Machine) -> Choice:
    if engine is None:
        raise SessionError(
            "VGG19_PRECISION is bf16, for which ONNX Runtime has no convolution on a GPU; choose "
            "float16 or tf32"
        )
    variant = _find(variants, "bf16", "VGG19_PRECISION is bf16", "float32")
    if machine.has_openvino() and not machine.has_bf16():
        raise SessionError(
            "VGG19_PRECISION is bf16, but this processor doesn't compute in it (it has neither "
            "AVX512_BF16 nor AMX); choose float32, int8 or auto"
        )
    return Choice(variant, "openvino")


def _check_precision(gpu: GpuOptions, engine: CpuEngine, has: tuple[Precision, ...]) -> None:
    if gpu.precision not in has:
        raise SessionError(
            f"VGG19_CPU_ENGINE is {engine}, which has {', '.join(has)}, but VGG19_PRECISION is "
            f"{gpu.precision}; choose one of these, or another engine"
        )


def _find(variants: Variants, name: VariantName, asked: str, otherwise: str) -> Variant:
    variant = variants.find(name)
    if variant is None:
        raise SessionError(
            f"{asked}, but this model has no variant {name}; export it with 'vgg19 export RUN "
            f"--variant {name}', or choose {otherwise}"
        )
    return variant
