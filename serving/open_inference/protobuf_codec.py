"""Open Inference Protocol v2 over gRPC: `ModelInferRequest`'s bytes -> a request of the core, and
its answer -> `ModelInferResponse`. Field numbers are those of protocol/open_inference.proto."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocol.open_inference_pb2 import (
    InferParameter,
    InferTensorContents,
    ModelInferRequest,
    ModelInferResponse,
)
from serving.core.dataplane import Limits
from serving.core.errors import BadRequest
from serving.core.requests import (
    Deadline,
    InferRequest,
    InferResponse,
    RequestedOutput,
    check_image_count,
)
from serving.core.tensors import (
    PIXELS,
    check_output,
    check_output_count,
    compute,
    default_outputs,
)
from serving.open_inference.inputs import (
    MAX_ID_LENGTH,
    check_datatype,
    check_id,
    check_image_shape,
    check_names,
    check_pixel_shape,
    check_sizes,
    explained,
    raw_images,
    raw_pixels,
    refuse_shared_memory,
)
from serving.open_inference.raw import as_raw
from serving.open_inference.wire import (
    Budget,
    Field,
    count_packed,
    read_fields,
    read_packed_bytes,
    read_text,
    read_varint,
    signed,
)

_NAME_BYTES = 200
_TARGET_BYTES = 10_000
_NAMES_READ = 5
_MAX_DIMS = 9
_REGION = "shared_memory_region"


def _numbers(message: Any) -> dict[str, int]:
    """Of a message's fields, by the protocol's definition."""
    return {name: field.number for name, field in message.fields_by_name.items()}


_REQUEST = _numbers(ModelInferRequest.DESCRIPTOR)
_INPUT = _numbers(ModelInferRequest.InferInputTensor.DESCRIPTOR)
_OUTPUT = _numbers(ModelInferRequest.InferRequestedOutputTensor.DESCRIPTOR)
_CONTENTS = _numbers(InferTensorContents.DESCRIPTOR)
_PARAMETER = _numbers(InferParameter.DESCRIPTOR)
_OutputTensor = ModelInferResponse.InferOutputTensor


@dataclass
class Message:
    """A request before its tensors are looked at."""

    data: bytes
    model: str = ""
    version: str = ""
    id: str = ""
    inputs: list[Field] = field(default_factory=list)
    outputs: list[Field] = field(default_factory=list)
    raw: list[Field] = field(default_factory=list)
    budget: Budget = field(default_factory=Budget)


@dataclass
class _Input:
    name: str = ""
    datatype: str = ""
    shape: list[int] = field(default_factory=list)
    region: bool = False
    contents: list[Field] = field(default_factory=list)


def read_message(data: bytes) -> Message:
    """Read who is asked and where the tensors are; takes microseconds, whatever the size.

    Raises:
        Malformed: it is no message.
        TooLarge: it has too many fields.
    """
    message = Message(data)
    lists = {
        _REQUEST["inputs"]: message.inputs,
        _REQUEST["outputs"]: message.outputs,
        _REQUEST["raw_input_contents"]: message.raw,
    }
    for found in read_fields(data, 0, len(data), message.budget):
        if not found.is_bytes:
            continue
        if found.number in lists:
            lists[found.number].append(found)
        elif found.number == _REQUEST["model_name"]:
            message.model = read_text(data, found, _NAME_BYTES)
        elif found.number == _REQUEST["model_version"]:
            message.version = read_text(data, found, _NAME_BYTES)
        elif found.number == _REQUEST["id"]:
            message.id = read_text(data, found, 4 * MAX_ID_LENGTH + 4)
    return message


def read_request(
    message: Message, limits: Limits, deadline: Deadline | None = None
) -> InferRequest:
    """Read its tensors. Those that came raw are answered raw.

    Raises:
        Malformed: it is no message.
        BadRequest: it isn't as the protocol says.
        TooLarge: too many images or fields, or an image is too large.
    """
    tensor = _input(message)
    raw = message.raw
    if raw and (len(raw) != 1 or tensor.contents):
        raise BadRequest("raw_input_contents must have one entry, and the input no contents")
    check_output_count(len(message.outputs))
    outputs = [_output(message, found, binary=bool(raw)) for found in message.outputs]
    outputs = outputs or default_outputs(binary=bool(raw))
    images, pixels = _contents(message, tensor, limits)
    return InferRequest(
        images=images,
        pixels=pixels,
        outputs=outputs,
        version=message.version,
        id=check_id(message.id),
        deadline=deadline,
        explain=explained(outputs),
        all_or_nothing=True,
    )


def _input(message: Message) -> _Input:
    if len(message.inputs) != 1:
        check_names([_read_input(message, found).name for found in message.inputs[:_NAMES_READ]])
    tensor = _read_input(message, message.inputs[0])
    check_names([tensor.name])
    check_datatype(tensor.name, tensor.datatype)
    if tensor.region:
        raise refuse_shared_memory(f"input '{tensor.name}'")
    return tensor


def _read_input(message: Message, place: Field) -> _Input:
    data = message.data
    tensor = _Input()
    for found in read_fields(data, place.start, place.stop, message.budget):
        if found.number == _INPUT["shape"]:
            tensor.shape += _dims(data, found, _MAX_DIMS - len(tensor.shape))
        elif not found.is_bytes:
            continue
        elif found.number == _INPUT["name"]:
            tensor.name = read_text(data, found, _NAME_BYTES)
        elif found.number == _INPUT["datatype"]:
            tensor.datatype = read_text(data, found, _NAME_BYTES)
        elif found.number == _INPUT["contents"]:
            tensor.contents.append(found)
        elif found.number == _INPUT["parameters"]:
            tensor.region |= _parameter(message, found)[0] == _REGION
    return tensor


def _dims(data: bytes, found: Field, count: int) -> list[int]:
    """The first numbers of a shape, packed or not."""
    if not found.is_bytes:
        return [signed(found.value)][:count]
    dims: list[int] = []
    position = found.start
    while position < found.stop and len(dims) < count:
        value, position = read_varint(data, position, found.stop)
        dims.append(signed(value))
    return dims


def _parameter(message: Message, place: Field) -> tuple[str, int | str | None]:
    """Its name, and its value if that is a whole number or a text."""
    key, value = "", None
    for found in read_fields(message.data, place.start, place.stop, message.budget):
        if found.is_bytes and found.number == 1:  # as in any map
            key = read_text(message.data, found, _NAME_BYTES)
        elif found.is_bytes and found.number == 2:
            value = _parameter_value(message, found)
    return key, value


def _parameter_value(message: Message, place: Field) -> int | str | None:
    value: int | str | None = None
    for found in read_fields(message.data, place.start, place.stop, message.budget):
        if found.is_bytes and found.number == _PARAMETER["string_param"]:
            value = read_text(message.data, found, _TARGET_BYTES)
        elif not found.is_bytes and found.number == _PARAMETER["int64_param"]:
            value = signed(found.value)
    return value


def _output(message: Message, place: Field, *, binary: bool) -> RequestedOutput:
    name = ""
    parameters: dict[str, int | str | None] = {}
    for found in read_fields(message.data, place.start, place.stop, message.budget):
        if found.is_bytes and found.number == _OUTPUT["name"]:
            name = read_text(message.data, found, _NAME_BYTES)
        elif found.is_bytes and found.number == _OUTPUT["parameters"]:
            parameters.update([_parameter(message, found)])
    if _REGION in parameters:
        raise refuse_shared_memory(f"output '{name[:50]}'")
    count, target = parameters.get("classification", 0), parameters.get("target")
    class_count = count if isinstance(count, int) else 0
    target = target if isinstance(target, str) else ""
    asked = RequestedOutput(name, class_count, target, binary)
    check_output(asked, class_count=class_count if "classification" in parameters else None)
    return asked


def _contents(
    message: Message, tensor: _Input, limits: Limits
) -> tuple[list[bytes], NDArray[np.uint8] | None]:
    """The encoded images or the pixels of an input."""
    if message.raw:
        raw = memoryview(message.data)[message.raw[0].start : message.raw[0].stop]
        if tensor.name == PIXELS:
            return [], raw_pixels(raw, tensor.shape, limits)
        return raw_images(raw, tensor.shape, limits), None
    if tensor.name == PIXELS:
        return [], _pixels(message, tensor, limits)
    return _images(message, tensor, limits), None


def _images(message: Message, tensor: _Input, limits: Limits) -> list[bytes]:
    places: list[Field] = []
    for contents in tensor.contents:
        for found in read_fields(message.data, contents.start, contents.stop, message.budget):
            if found.is_bytes and found.number == _CONTENTS["bytes_contents"]:
                places.append(found)
                check_image_count(len(places), limits.max_request_images, " or more")
    check_image_shape(len(places), tensor.shape, limits)
    check_sizes((place.stop - place.start for place in places), limits)
    return [message.data[place.start : place.stop] for place in places]


def _pixels(message: Message, tensor: _Input, limits: Limits) -> NDArray[np.uint8]:
    data = message.data
    places: list[Field] = []
    for contents in tensor.contents:
        places += [
            found
            for found in read_fields(data, contents.start, contents.stop, message.budget)
            if found.number == _CONTENTS["uint_contents"]
        ]
    counts = [count_packed(data, p.start, p.stop) if p.is_bytes else 1 for p in places]
    check_pixel_shape(sum(counts), tensor.shape, limits)
    values = np.empty(sum(counts), np.uint8)
    too_large = BadRequest(f"input '{PIXELS}' holds a number above 255; pixels are 0..255")
    filled = 0
    for place, count in zip(places, counts, strict=True):
        part = values[filled : filled + count]
        filled += count
        if place.is_bytes:
            read_packed_bytes(data, place.start, place.stop, part, too_large)
        elif place.value > 255:
            raise too_large
        else:
            part[0] = place.value
    return values.reshape(tensor.shape)


def write_response(request: InferRequest, answer: InferResponse) -> ModelInferResponse:
    """The answer, in raw contents if the request came in raw contents, else in typed ones.

    Raises:
        RequestError: see `serving.core.tensors.compute`.
    """
    response = ModelInferResponse(
        model_name=answer.model.name, model_version=answer.model.version, id=request.id
    )
    for output in compute(answer, request.outputs):
        tensor = _OutputTensor(name=output.asked.name, datatype=output.datatype, shape=output.shape)
        if output.asked.binary:
            response.raw_output_contents.append(as_raw(output))
        elif isinstance(output.values, list):
            tensor.contents.bytes_contents.extend(output.values)
        elif output.datatype == "BOOL":
            tensor.contents.bool_contents.extend(map(bool, output.values.ravel()))
        else:  # of 1,000 classes a list takes 27 microseconds, the array's own elements 152
            tensor.contents.fp32_contents.extend(output.values.ravel().tolist())
        response.outputs.append(tensor)
    return response
