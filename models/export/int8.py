"""model.onnx -> the same network in int8 on uint8 activations. Needs onnx, but no torch."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from models.bundle.spec import ModelSpec


def int8(source: Path, spec: ModelSpec, images: NDArray[np.uint8]) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as directory:
        whole, prepared, quantized = (Path(directory) / f"{n}.onnx" for n in ("all", "ready", "q"))
        # The preparation copies a graph to another folder, where the weights beside it are missing.
        onnx.save_model(onnx.load(source), whole)
        quant_pre_process(whole, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            quantized,
            _Images(spec.input_name, list(images)),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Gemm", "MatMul", "MaxPool", "Relu"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            # On AVX2 and AVX-512 without VNNI, sums of two products of 8-bit numbers overflow 16
            # bits unless weights keep to 7 (ONNX Runtime's documentation of quantization).
            reduce_range=True,
        )
        return onnx.load(quantized)


class _Images(CalibrationDataReader):  # type: ignore[misc]  # untyped
    """Gives ONNX Runtime's calibration one image after another."""

    def __init__(self, input_name: str, images: Sequence[NDArray[np.uint8]]) -> None:
        self._feeds: Iterator[dict[str, NDArray[np.uint8]]] = (
            {input_name: image[None]} for image in images
        )

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        return next(self._feeds, None)
