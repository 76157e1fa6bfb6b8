"""Open Inference Protocol v2: its messages <-> the classifier's bytes and arrays.

One input: `image` BYTES[N], encoded images, or `pixels` UINT8[N,S,S,3], RGB, decoded and resized
by the client. Two outputs: `probabilities` FP32[N,C] and `label` BYTES[N], the most probable one.
Others come for who asks for them: `accepted` BOOL[N], whether to trust the label; `distance`
FP32[N] from the training images, 1 is the limit; `heatmap` FP32[N,S/32,S/32], of the most probable
class or of the label in the output's parameter `target`.
By the classification extension, `probabilities` may be asked for as BYTES[N,k] of
"probability:index:label", the most probable first (parameter `classification` of the output).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from protocol.open_inference_pb2 import (
    ModelInferRequest,
    ModelInferResponse,
)
from serving.core.dataplane import DataPlane
from serving.core.errors import BadRequest
from serving.core.explainer import ExplainRequest
from serving.core.requests import InferResponse, top

SERVER_NAME = "vgg19-finetune"
IMAGE = "image"
PIXELS = "pixels"
PROBABILITIES = "probabilities"
LABEL = "label"
ACCEPTED = "accepted"
DISTANCE = "distance"
HEAT_MAP = "heatmap"
OUTPUTS = (PROBABILITIES, LABEL, ACCEPTED, DISTANCE, HEAT_MAP)
# What goes beyond the protocol itself, by the names that Triton gave it.
EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "statistics",
)

_InputTensor = ModelInferRequest.InferInputTensor
_OutputTensor = ModelInferResponse.InferOutputTensor

_LENGTH = struct.Struct("<I")


def read_input(request: ModelInferRequest) -> list[bytes] | NDArray[np.uint8]:
    """The encoded images of a request, or its pixels, uint8[N,H,W,3].

    Raises:
        BadRequest: not one input of a known name and type, or its data doesn't fit its shape.
    """
    if len(request.inputs) != 1 or request.inputs[0].name not in (IMAGE, PIXELS):
        names = ", ".join(f"'{tensor.name[:50]}'" for tensor in request.inputs) or "none"
        raise BadRequest(
            f"the inputs are {names}; there must be one, named '{IMAGE}' or '{PIXELS}'"
        )
    tensor = request.inputs[0]
    raw = request.raw_input_contents
    if raw and (len(raw) != 1 or tensor.HasField("contents")):
        raise BadRequest("raw_input_contents must have one entry, and the input no contents")
    if tensor.name == PIXELS:
        return _read_pixels(tensor, raw[0] if raw else None)
    return _read_images(tensor, raw[0] if raw else None)


def _read_images(tensor: _InputTensor, raw: bytes | None) -> list[bytes]:
    if tensor.datatype != "BYTES":
        raise BadRequest(
            f"input '{IMAGE}' has datatype '{tensor.datatype[:20]}', it must be BYTES: one encoded "
            "image (JPEG, PNG, ...) an element"
        )
    images = list(tensor.contents.bytes_contents if raw is None else _split_bytes(raw))
    # Compared, not multiplied: a shape can be as long as the message, of numbers as large as int64.
    if not images or list(tensor.shape[:3]) not in ([len(images)], [len(images), 1]):
        raise BadRequest(
            f"input '{IMAGE}' has shape {list(tensor.shape)[:8]} and {len(images)} elements; the "
            "shape must be [N] with N >= 1 images"
        )
    return images


def _read_pixels(tensor: _InputTensor, raw: bytes | None) -> NDArray[np.uint8]:
    if tensor.datatype != "UINT8":
        raise BadRequest(f"input '{PIXELS}' has datatype '{tensor.datatype[:20]}', not UINT8")
    shape = list(tensor.shape[:5])
    if raw is not None:
        values = np.frombuffer(raw, np.uint8)
    else:
        contents = np.array(tensor.contents.uint_contents, np.uint32)
        if contents.size and contents.max() > 255:
            raise BadRequest(f"input '{PIXELS}' holds {contents.max()}, pixels are 0..255")
        values = contents.astype(np.uint8)
    # As above: sizes are bounded before they are multiplied.
    fits = len(shape) == 4 and all(0 < length <= values.size for length in shape)
    if not fits or math.prod(shape) != values.size:
        raise BadRequest(
            f"input '{PIXELS}' has shape {shape} and {values.size} values; the shape must be "
            "[N, S, S, 3] with N >= 1"
        )
    return values.reshape(shape)


@dataclass(frozen=True)
class RequestedOutput:
    """An output to answer with; `class_count` above 0 asks for that many classes as text, `target`
    for the heat maps of a label."""

    name: str
    class_count: int = 0
    target: str = ""


def requested_outputs(request: ModelInferRequest) -> list[RequestedOutput]:
    """The outputs to answer with; if the request names none, those that cost nothing more.

    Raises:
        BadRequest: there is no such output, or it can't be had as classes.
    """
    if len(request.outputs) > len(OUTPUTS):
        raise BadRequest(f"{len(request.outputs)} outputs are asked for, there are {len(OUTPUTS)}")
    if not request.outputs:
        return [RequestedOutput(PROBABILITIES), RequestedOutput(LABEL)]
    return [_requested_output(output) for output in request.outputs]


def _requested_output(output: ModelInferRequest.InferRequestedOutputTensor) -> RequestedOutput:
    if output.name not in OUTPUTS:
        raise BadRequest(f"there is no output '{output.name[:50]}'; there are {', '.join(OUTPUTS)}")
    target = output.parameters["target"].string_param if "target" in output.parameters else ""
    if target and output.name != HEAT_MAP:
        raise BadRequest(f"target is of '{HEAT_MAP}', '{output.name}' has none")
    if "classification" not in output.parameters:
        return RequestedOutput(output.name, target=target)
    class_count = output.parameters["classification"].int64_param
    if output.name != PROBABILITIES or class_count < 1:
        raise BadRequest(
            f"{class_count} classes of '{output.name}' are asked for; there are 1 or more of "
            f"'{PROBABILITIES}'"
        )
    return RequestedOutput(output.name, class_count)


async def classify(
    classifier: DataPlane,
    request: ModelInferRequest,
    version: str,
    timeout_s: float | None,
    outputs: Sequence[RequestedOutput],
) -> InferResponse:
    """Have the input of a request classified, whichever it is, for these outputs.

    Raises:
        RequestError: see `read_input`, `DataPlane.classify` and `DataPlane.classify_pixels`.
    """
    images = read_input(request)
    explain = next(
        (ExplainRequest(output.target) for output in outputs if output.name == HEAT_MAP), None
    )
    if isinstance(images, list):
        return await classifier.classify(
            images, version=version, timeout_s=timeout_s, explain=explain
        )
    return await classifier.classify_pixels(
        images, version=version, timeout_s=timeout_s, explain=explain
    )


@dataclass(frozen=True)
class OutputTensor:
    """An output before it is put into a message. `values`: float32[...], bool[...] or the BYTES
    elements."""

    name: str
    shape: list[int]
    values: NDArray[np.float32] | NDArray[np.bool_] | list[bytes]

    @property
    def datatype(self) -> str:
        if isinstance(self.values, list):
            return "BYTES"
        return "BOOL" if self.values.dtype == np.bool_ else "FP32"

    def raw(self) -> bytes:
        """As raw contents: little-endian, BYTES elements each after their uint32 length, a byte for
        each BOOL."""
        if isinstance(self.values, list):
            return b"".join(_LENGTH.pack(len(value)) + value for value in self.values)
        return self.values.astype("?" if self.datatype == "BOOL" else "<f4").tobytes()


def output_tensors(answer: InferResponse, outputs: Sequence[RequestedOutput]) -> list[OutputTensor]:
    """The outputs that were asked for.

    Raises:
        RequestError: an image has no answer; a tensor has one for all or none.
    """
    probabilities = answer.probabilities()
    labels = answer.model.spec.labels
    tensors = []
    for output in outputs:
        if output.name == LABEL:
            words = [labels[i].encode() for i in probabilities.argmax(axis=1)]
            tensors.append(OutputTensor(output.name, [len(words)], words))
        elif output.name == ACCEPTED:
            accepted = np.array([answer.model.accepts(row) for row in answer.outputs()])
            tensors.append(OutputTensor(output.name, [len(accepted)], accepted))
        elif output.name == DISTANCE:
            distances = _distances(answer)
            tensors.append(OutputTensor(output.name, [len(distances)], distances))
        elif output.name == HEAT_MAP:
            maps = np.stack([heat_map.values for heat_map in answer.heat_maps])
            tensors.append(OutputTensor(output.name, list(maps.shape), maps))
        elif output.class_count:
            rows = [_classes(row, labels, output.class_count) for row in probabilities]
            words = [word for row in rows for word in row]
            tensors.append(OutputTensor(output.name, [len(rows), len(rows[0])], words))
        else:
            tensors.append(OutputTensor(output.name, list(probabilities.shape), probabilities))
    return tensors


def _distances(answer: InferResponse) -> NDArray[np.float32]:
    rows = answer.outputs()
    if any(row.distance is None for row in rows):
        raise BadRequest(
            f"version {answer.model.version} has no '{DISTANCE}': it was trained before there were "
            "any; train it again"
        )
    return np.array([row.distance for row in rows], np.float32)


def infer_response(
    request: ModelInferRequest, answer: InferResponse, outputs: Sequence[RequestedOutput]
) -> ModelInferResponse:
    """The answer, in raw contents if the request came in raw contents, else in typed ones.

    Raises:
        RequestError: see `output_tensors`.
    """
    response = ModelInferResponse(
        model_name=answer.model.name, model_version=answer.model.version, id=request.id
    )
    for output in output_tensors(answer, outputs):
        tensor = _OutputTensor(name=output.name, datatype=output.datatype, shape=output.shape)
        if request.raw_input_contents:
            response.raw_output_contents.append(output.raw())
        elif isinstance(output.values, list):
            tensor.contents.bytes_contents.extend(output.values)
        elif output.datatype == "BOOL":
            tensor.contents.bool_contents.extend(map(bool, output.values.ravel()))
        else:  # of 1,000 classes a list takes 27 microseconds, the array's own elements 152
            tensor.contents.fp32_contents.extend(output.values.ravel().tolist())
        response.outputs.append(tensor)
    return response


def _classes(row: NDArray[np.float32], labels: Sequence[str], count: int) -> list[bytes]:
    """Triton's classification extension: "value:index:label"."""
    return [f"{p.probability:f}:{p.index}:{p.label}".encode() for p in top(labels, row, count)]


def _split_bytes(raw: bytes) -> Iterator[bytes]:
    """Split a serialised BYTES tensor: a little-endian uint32 length before each element."""
    position = 0
    while position < len(raw):
        start = position + _LENGTH.size
        if start > len(raw):
            raise BadRequest(f"input '{IMAGE}': the raw contents end inside a length")
        (length,) = _LENGTH.unpack_from(raw, position)
        position = start + length
        if position > len(raw):
            raise BadRequest(
                f"input '{IMAGE}': an element of {length} bytes is announced, "
                f"{len(raw) - start} are there"
            )
        yield raw[start:position]
