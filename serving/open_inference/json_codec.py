"""Open Inference Protocol v2 over HTTP: JSON, with or without binary tensors, <-> the messages of
`open_inference`.

With the binary extension the body is a JSON header, whose length is told by an HTTP header, and the
raw contents of the tensors behind it. In JSON alone, the elements of `image` are base64.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from protocol.open_inference_pb2 import InferTensorContents, ModelInferRequest
from serving.core.errors import BadRequest
from serving.core.requests import InferResponse
from serving.open_inference.codec import (
    IMAGE,
    OUTPUTS,
    PIXELS,
    OutputTensor,
    RequestedOutput,
    output_tensors,
)

_InputTensor = ModelInferRequest.InferInputTensor
_RequestedTensor = ModelInferRequest.InferRequestedOutputTensor


@dataclass(frozen=True)
class JsonRequest:
    """A request, and the outputs that are wanted in binary."""

    message: ModelInferRequest
    binary_outputs: frozenset[str]


def read_request(body: bytes, header_length: int | None) -> JsonRequest:
    """Read a body.

    Args:
        header_length: bytes of the JSON before the binary tensors; None: all of it is JSON.

    Raises:
        BadRequest: it isn't as the protocol says.
    """
    if header_length is not None and not 0 < header_length <= len(body):
        raise BadRequest(f"the header is {header_length} bytes long, the body {len(body)}")
    content = _parse(body[:header_length])
    message = ModelInferRequest(id=_text(content, "id", ""))
    rest = memoryview(body)[len(body) if header_length is None else header_length :]
    for tensor in _list(content, "inputs"):
        rest = _add_input(message, tensor, rest)
    if rest:
        raise BadRequest(f"{len(rest)} bytes are left behind the binary tensors")
    binary_by_default = bool(_parameters(content).get("binary_data_output", False))
    outputs = _list(content, "outputs") if "outputs" in content else []
    binary = {
        name
        for name in OUTPUTS
        if (binary_by_default and not outputs) or _wants_binary(outputs, name, binary_by_default)
    }
    message.outputs.extend(_output(tensor) for tensor in outputs)
    return JsonRequest(message, frozenset(binary))


def write_response(
    request: JsonRequest, answer: InferResponse, outputs: Sequence[RequestedOutput]
) -> tuple[bytes, int | None]:
    """The body of the answer, and the length of its JSON header if binary tensors follow it.

    Raises:
        RequestError: see `output_tensors`.
    """
    tensors = output_tensors(answer, outputs)
    header: dict[str, Any] = {
        "model_name": answer.model.name,
        "model_version": answer.model.version,
        "outputs": [],
    }
    if request.message.id:
        header["id"] = request.message.id
    binary: list[bytes] = []
    for tensor in tensors:
        described: dict[str, Any] = {
            "name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape
        }  # fmt: skip
        if tensor.name in request.binary_outputs:
            binary.append(tensor.raw())
            described["parameters"] = {"binary_data_size": len(binary[-1])}
        else:
            described["data"] = _json_values(tensor)
        header["outputs"].append(described)
    encoded = json.dumps(header).encode()
    return b"".join([encoded, *binary]), len(encoded) if binary else None


def _parse(text: bytes) -> Mapping[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):  # not JSON, not UTF-8, a number or a nesting without end
        raise BadRequest("the body is no JSON (or its header length is wrong)") from None
    if not isinstance(content, dict):
        raise BadRequest("the body must be a JSON object")
    return content


def _add_input(message: ModelInferRequest, tensor: object, rest: memoryview) -> memoryview:
    """Add an input to the message; returns what is left of the binary part."""
    described = _object(tensor, "an input")
    added = _InputTensor(
        name=_text(described, "name"),
        datatype=_text(described, "datatype"),
        shape=_shape(described),
    )
    size = _parameters(described).get("binary_data_size")
    if size is None:
        added.contents.CopyFrom(_contents(added.name, described))
    else:
        if not _is_count(size) or size > len(rest):
            raise BadRequest(
                f"input '{added.name[:50]}' announces {str(size)[:20]} binary bytes, "
                f"{len(rest)} are there"
            )
        message.raw_input_contents.append(bytes(rest[:size]))
        rest = rest[size:]
    message.inputs.append(added)
    return rest


def _contents(name: str, described: Mapping[str, Any]) -> InferTensorContents:
    data = _list(described, "data")
    if name == PIXELS:
        return InferTensorContents(uint_contents=_numbers(data))
    if name == IMAGE:
        return InferTensorContents(bytes_contents=[_decode(element) for element in _flat(data)])
    return InferTensorContents()  # an unknown input is refused by its name


def _numbers(data: list[Any]) -> list[int]:
    """Nested lists of pixels as one."""
    try:
        values = np.array(data)
    except ValueError:  # ragged
        values = np.array([None])
    if values.size and (values.dtype.kind not in "iu" or values.min() < 0 or values.max() > 255):
        raise BadRequest(f"the data of '{PIXELS}' must be whole numbers, 0..255")
    flat: list[int] = values.ravel().tolist()
    return flat


def _flat(data: list[Any]) -> list[Any]:
    """["a"] or [["a"]]."""
    return list(chain.from_iterable(d if isinstance(d, list) else [d] for d in data))


def _decode(element: object) -> bytes:
    try:
        if isinstance(element, str):
            return base64.b64decode(element, validate=True)
    except (binascii.Error, ValueError):
        pass
    raise BadRequest(f"the data of '{IMAGE}' must be strings of base64, one an image")


def _output(tensor: object) -> _RequestedTensor:
    described = _object(tensor, "an output")
    output = _RequestedTensor(name=_text(described, "name"))
    parameters = _parameters(described)
    if "target" in parameters:
        output.parameters["target"].string_param = _text(parameters, "target")
    count = parameters.get("classification")
    if count is not None:
        if not _is_count(count):
            raise BadRequest(f"classification is {str(count)[:20]}, it must be a whole number")
        output.parameters["classification"].int64_param = count
    return output


def _wants_binary(outputs: Sequence[object], name: str, default: bool) -> bool:
    for tensor in outputs:
        described = _object(tensor, "an output")
        if described.get("name") == name:
            return bool(_parameters(described).get("binary_data", default))
    return False


def _json_values(tensor: OutputTensor) -> list[Any]:
    if isinstance(tensor.values, list):
        return [value.decode() for value in tensor.values]
    values: list[Any] = tensor.values.ravel().tolist()
    return values


def _object(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise BadRequest(f"{what} must be a JSON object")
    return value


def _parameters(described: Mapping[str, Any]) -> Mapping[str, Any]:
    return _object(described.get("parameters", {}), "parameters")


def _list(described: Mapping[str, Any], key: str) -> list[Any]:
    value = described.get(key)
    if not isinstance(value, list):
        raise BadRequest(f"'{key}' must be a list")
    return value


def _text(described: Mapping[str, Any], key: str, default: str | None = None) -> str:
    value = described.get(key, default)
    if not isinstance(value, str):
        raise BadRequest(f"'{key}' must be a string")
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        raise BadRequest(f"'{key}' is no text") from None
    return value


def _shape(described: Mapping[str, Any]) -> list[int]:
    shape = _list(described, "shape")
    if len(shape) > 8 or not all(_is_count(length) for length in shape):
        raise BadRequest("'shape' must be a list of a few whole numbers, 0 or more")
    return shape


def _is_count(value: object) -> bool:
    """A whole number that fits int64 (True is none, though Python thinks so)."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63
