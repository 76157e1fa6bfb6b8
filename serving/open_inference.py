"""Open Inference Protocol v2: its messages <-> the classifier's bytes and arrays.

One input, `image`: BYTES[N], encoded images. Two outputs: `probabilities` FP32[N,C] and
`label` BYTES[N], the most probable one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from serving.errors import BadRequest
from serving.proto.open_inference_pb2 import (
    InferTensorContents,
    ModelInferRequest,
    ModelInferResponse,
    ModelMetadataResponse,
)

INPUT = "image"
PROBABILITIES = "probabilities"
LABEL = "label"
PLATFORM = "onnxruntime_onnx"  # KServe's and Triton's name for it

_TensorMetadata = ModelMetadataResponse.TensorMetadata
_OutputTensor = ModelInferResponse.InferOutputTensor
_LENGTH = struct.Struct("<I")


def model_metadata(name: str, version: str, num_classes: int) -> ModelMetadataResponse:
    return ModelMetadataResponse(
        name=name,
        versions=[version],
        platform=PLATFORM,
        inputs=[_TensorMetadata(name=INPUT, datatype="BYTES", shape=[-1])],
        outputs=[
            _TensorMetadata(name=PROBABILITIES, datatype="FP32", shape=[-1, num_classes]),
            _TensorMetadata(name=LABEL, datatype="BYTES", shape=[-1]),
        ],
    )


def read_images(request: ModelInferRequest) -> list[bytes]:
    """The encoded images of a request.

    Raises:
        BadRequest: not one input `image` of type BYTES, or its data doesn't fit its shape.
    """
    if len(request.inputs) != 1 or request.inputs[0].name != INPUT:
        names = ", ".join(f"'{tensor.name[:50]}'" for tensor in request.inputs) or "none"
        raise BadRequest(f"the inputs are {names}; there must be one, named '{INPUT}'")
    tensor = request.inputs[0]
    if tensor.datatype != "BYTES":
        raise BadRequest(
            f"input '{INPUT}' has datatype '{tensor.datatype[:20]}', it must be BYTES: one encoded "
            "image (JPEG, PNG, ...) an element"
        )
    if request.raw_input_contents:
        if len(request.raw_input_contents) != 1 or tensor.HasField("contents"):
            raise BadRequest("raw_input_contents must have one entry, and the input no contents")
        images = list(_split_bytes(request.raw_input_contents[0]))
    else:
        images = list(tensor.contents.bytes_contents)
    # Compared, not multiplied: a shape can be as long as the message, of numbers as large as int64.
    if not images or list(tensor.shape[:3]) not in ([len(images)], [len(images), 1]):
        raise BadRequest(
            f"input '{INPUT}' has shape {list(tensor.shape)[:8]} and {len(images)} elements; the "
            "shape must be [N] with N >= 1 images"
        )
    return images


def requested_outputs(request: ModelInferRequest) -> Sequence[str]:
    """The names of the outputs to answer with; all of them if the request names none.

    Raises:
        BadRequest: there is no such output.
    """
    if len(request.outputs) > 2:
        raise BadRequest(f"{len(request.outputs)} outputs are asked for, there are 2")
    names = [output.name for output in request.outputs] or [PROBABILITIES, LABEL]
    for name in names:
        if name not in (PROBABILITIES, LABEL):
            raise BadRequest(
                f"there is no output '{name[:50]}'; there are '{PROBABILITIES}' and '{LABEL}'"
            )
    return names


def infer_response(
    request: ModelInferRequest,
    version: str,
    outputs: Sequence[str],
    probabilities: NDArray[np.float32],
    labels: Sequence[str],
) -> ModelInferResponse:
    """The answer, in raw contents if the request came in raw contents, else in typed ones.

    Args:
        probabilities: float32[N,C].
        labels: the N most probable labels.
    """
    response = ModelInferResponse(
        model_name=request.model_name, model_version=version, id=request.id
    )
    raw = bool(request.raw_input_contents)
    for name in outputs:
        if name == PROBABILITIES:
            tensor = _OutputTensor(name=name, datatype="FP32", shape=probabilities.shape)
            data = probabilities.astype("<f4").tobytes() if raw else b""
            contents = InferTensorContents(fp32_contents=() if raw else probabilities.ravel())
        else:
            encoded = [label.encode() for label in labels]
            tensor = _OutputTensor(name=name, datatype="BYTES", shape=[len(encoded)])
            data = b"".join(_LENGTH.pack(len(label)) + label for label in encoded) if raw else b""
            contents = InferTensorContents(bytes_contents=() if raw else encoded)
        if raw:
            response.raw_output_contents.append(data)
        else:
            tensor.contents.CopyFrom(contents)
        response.outputs.append(tensor)
    return response


def _split_bytes(raw: bytes) -> Iterator[bytes]:
    """Split a serialised BYTES tensor: a little-endian uint32 length before each element."""
    position = 0
    while position < len(raw):
        start = position + _LENGTH.size
        if start > len(raw):
            raise BadRequest(f"input '{INPUT}': the raw contents end inside a length")
        (length,) = _LENGTH.unpack_from(raw, position)
        position = start + length
        if position > len(raw):
            raise BadRequest(
                f"input '{INPUT}': an element of {length} bytes is announced, "
                f"{len(raw) - start} are there"
            )
        yield raw[start:position]
