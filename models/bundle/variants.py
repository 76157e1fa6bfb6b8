"""Smaller or faster forms of a model's graph, which a bundle may hold beside the float32 one."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from models.bundle.cascade import Cascade
from models.bundle.json_file import JsonFile

# fc8, fc4: weights of FC1-FC3 in 8 and 4 bits, everything else as in float32.
# fp16: weights and activations in float16, for GPUs.
# int8: weights and activations in 8 bits, for processors with instructions for them (VNNI).
# ncnn: float32, for another engine, see `models.bundle.ncnn_graph`.
# bf16: the float32 graph itself, computed in bfloat16, see `models.bundle.openvino_graph`.
VariantName = Literal["fc8", "fc4", "fp16", "int8", "ncnn", "bf16"]
VARIANT_NAMES: tuple[VariantName, ...] = ("fc8", "fc4", "fp16", "int8", "ncnn", "bf16")
# What runs a graph on the CPU.
CpuEngine = Literal["onnxruntime", "ncnn", "openvino"]
VARIANTS_FILE = "variants.json"


class Variant(BaseModel):
    """A variant, and how far it is from the float32 graph.

    images: held-out images that it was judged on. top1_agreement: on how many of them its most
    probable label is the float32 graph's, 0..1. max_probability_difference: the largest in any
    probability of any of them. same_trust: on how many of them both answers are to be trusted or
    neither, 0..1. max_distance_difference: the largest in a distance from the training images,
    beyond the limit by float32's. (None: the model has no such thing, or an older export didn't
    look.) tolerance: largest allowed difference to the bundle's golden samples, which it is held to
    wherever it is loaded. needs_vnni: on x86 it is computed rightly only with VNNI: without, sums
    of two products of 8 bits overflow 16. rest_in_bf16: of int8, that OpenVINO computed the layers
    that aren't quantized in bfloat16 when it was judged, and may do so where it is served; False:
    in float32. cascade: only with this it keeps the labels, all agreement is of both, `tolerance`
    of the graph alone; None: it keeps them by itself.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: VariantName
    size_bytes: int
    images: int
    top1_agreement: float
    max_probability_difference: float
    tolerance: float
    needs_vnni: bool = False
    # Left out where they say nothing: a service from before there were any reads the other bundles.
    same_trust: float | None = Field(default=None, exclude_if=lambda value: value is None)
    max_distance_difference: float | None = Field(
        default=None, exclude_if=lambda value: value is None
    )
    rest_in_bf16: bool = Field(default=False, exclude_if=lambda value: not value)
    cascade: Cascade | None = Field(default=None, exclude_if=lambda value: value is None)

    @property
    def files(self) -> tuple[str, ...]:
        return variant_files(self.name)


class Variants(JsonFile):
    """`variants.json`. `recommended`: what was best where it was exported (None: float32), on which
    engine; `why` says by what. `processor`: the kind it was measured on (`processor_kind`), or ""
    where nothing was measured or an older export didn't say."""

    variants: list[Variant] = Field(default_factory=list)
    recommended: VariantName | None = None
    engine: CpuEngine = "onnxruntime"
    why: str = ""
    processor: str = ""

    def find(self, name: VariantName) -> Variant | None:
        return next((variant for variant in self.variants if variant.name == name), None)


def variant_files(name: VariantName) -> tuple[str, ...]:
    """The files that a variant adds to its bundle; the first is the one to load, without any it is
    the float32 graph."""
    if name == "bf16":
        return ()
    if name == "ncnn":
        return "model.ncnn.param", "model.ncnn.bin"
    return (f"model.{name}.onnx",)
