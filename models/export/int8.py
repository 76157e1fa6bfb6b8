"""model.onnx -> the same network in int8 on uint8 activations. Needs onnx, but no torch."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from models.bundle.spec import ModelSpec
from models.export.rounding import InputRange, correct_bias, equalize, layers_of

# On either side of zero, of a weight: all 8 bits. On AVX2 and AVX-512 without VNNI sums of two
# products overflow 16 bits then (ONNX Runtime's documentation of quantization), so the service
# doesn't run it there (`Variant.needs_vnni`). With 7 bits, which would run, it is twice as far from
# float32 (docs/benchmarks.md).
_STEPS = 127


def int8(source: Path, spec: ModelSpec, images: NDArray[np.uint8]) -> onnx.ModelProto:
    """Quantize a graph: weights by channel, activations by their range on `images`, uint8[N,S,S,3].

    The first convolution and the last layer stay in float32: they are 1% of the arithmetic, and
    what they round is lost for all others, or for the answer.
    """
    with tempfile.TemporaryDirectory() as directory:
        whole, prepared, ready, quantized = (
            Path(directory) / f"{name}.onnx" for name in ("whole", "prepared", "ready", "quantized")
        )
        # The preparation copies a graph to another folder, where the weights beside it are missing.
        onnx.save_model(onnx.load(source), whole)
        quant_pre_process(whole, prepared, skip_symbolic_shape=True)
        model = onnx.load(prepared)
        equalize(model, input_ranges(model, spec, images))
        first, *inner, last = layers_of(model)
        correct_bias(model, input_ranges(model, spec, images), inner, _STEPS)
        onnx.save_model(model, ready)
        quantize_static(
            ready,
            quantized,
            _Images(spec.input_name, list(images)),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Gemm", "MatMul", "MaxPool", "Relu"],
            nodes_to_exclude=[first.name, last.name],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(quantized)


def input_ranges(
    model: onnx.ModelProto, spec: ModelSpec, images: NDArray[np.uint8]
) -> dict[str, InputRange]:
    """What goes into each layer on `images`, uint8[N,S,S,3], by the name of the layer's input."""
    names = list(dict.fromkeys(layer.input[0] for layer in layers_of(model)))
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    given = {output.name for output in model.graph.output}
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in given)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "probe.onnx"
        onnx.save_model(probe, path)
        session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    found: dict[str, list[InputRange]] = {name: [] for name in names}
    for image in images:
        values = session.run(names, {spec.input_name: image[None]})
        for name, value in zip(names, values, strict=True):
            by_channel = value.reshape(value.shape[1], -1)
            found[name].append(InputRange(np.abs(by_channel).max(axis=1), by_channel.mean(axis=1)))
    return {
        name: InputRange(
            np.max([one.largest for one in each], axis=0),
            np.mean([one.mean for one in each], axis=0, dtype=np.float32),
        )
        for name, each in found.items()
    }


class _Images(CalibrationDataReader):  # type: ignore[misc]  # untyped
    """Gives ONNX Runtime's calibration one image after another."""

    def __init__(self, input_name: str, images: Sequence[NDArray[np.uint8]]) -> None:
        self._feeds: Iterator[dict[str, NDArray[np.uint8]]] = (
            {input_name: image[None]} for image in images
        )

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        return next(self._feeds, None)
