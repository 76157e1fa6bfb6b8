"""Open Inference Protocol v2 over gRPC: `ModelInferRequest`'s bytes -> a request of the core, and
its answer -> `ModelInferResponse`. Field numbers are those of protocol/open_inference.proto."""

from __future__ import annotations

from dataclasses import dataclass, field

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
    NUMBER,
    Budget,
    Field,
    Place,
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


_Input = ModelInferRequest.InferInputTensor
_Output = ModelInferRequest.InferRequestedOutputTensor
_INPUTS = ModelInferRequest.INPUTS_FIELD_NUMBER
_OUTPUTS = ModelInferRequest.OUTPUTS_FIELD_NUMBER
_RAW = ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER
_MODEL = ModelInferRequest.MODEL_NAME_FIELD_NUMBER
_VERSION = ModelInferRequest.MODEL_VERSION_FIELD_NUMBER
_ID = ModelInferRequest.ID_FIELD_NUMBER


@dataclass(slots=True)
class Message:
    """A request before its tensors are looked at."""

    data: bytes
    model: str = ""
    version: str = ""
    id: str = ""
    inputs: list[Place] = field(default_factory=list)
    outputs: list[Place] = field(default_factory=list)
    raw: list[Place] = field(default_factory=list)
    budget: Budget = field(default_factory=Budget)

    def fields(self, place: Place) -> list[Field]:
        """Of the message that is there."""
        return read_fields(self.data, *place, self.budget)


@dataclass(slots=True)
class _Tensor:
    name: str = ""
    datatype: str = ""
    shape: list[int] = field(default_factory=list)
    region: bool = False
    contents: list[Place] = field(default_factory=list)


def read_message(data: bytes) -> Message:
    """Read who is asked and where the tensors are; takes microseconds, whatever the size.

    Raises:
        Malformed: it is no message.
        TooLarge: it has too many fields.
    """
    message = Message(data)
    for number, start, stop in message.fields((0, len(data))):
        if start == NUMBER:
            continue
        if number == _INPUTS:
            message.inputs.append((start, stop))
        elif number == _OUTPUTS:
            message.outputs.append((start, stop))
        elif number == _RAW:
            message.raw.append((start, stop))
        elif number == _MODEL:
            message.model = read_text(data, start, stop, _NAME_BYTES)
        elif number == _VERSION:
            message.version = read_text(data, start, stop, _NAME_BYTES)
        elif number == _ID:
            message.id = read_text(data, start, stop, 4 * MAX_ID_LENGTH + 4)
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
    outputs = [_output(message, place, binary=bool(raw)) for place in message.outputs]
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


def _input(message: Message) -> _Tensor:
    if len(message.inputs) != 1:
        check_names([_read_input(message, place).name for place in message.inputs[:_NAMES_READ]])
    tensor = _read_input(message, message.inputs[0])
    check_names([tensor.name])
    check_datatype(tensor.name, tensor.datatype)
    if tensor.region:
        raise refuse_shared_memory(f"input '{tensor.name}'")
    return tensor


def _read_input(message: Message, place: Place) -> _Tensor:
    data = message.data
    tensor = _Tensor()
    for number, start, stop in message.fields(place):
        if number == _Input.SHAPE_FIELD_NUMBER:
            tensor.shape += _dims(data, start, stop, _MAX_DIMS - len(tensor.shape))
        elif start == NUMBER:
            continue
        elif number == _Input.NAME_FIELD_NUMBER:
            tensor.name = read_text(data, start, stop, _NAME_BYTES)
        elif number == _Input.DATATYPE_FIELD_NUMBER:
            tensor.datatype = read_text(data, start, stop, _NAME_BYTES)
        elif number == _Input.CONTENTS_FIELD_NUMBER:
            tensor.contents.append((start, stop))
        elif number == _Input.PARAMETERS_FIELD_NUMBER:
            tensor.region |= _parameter(message, (start, stop))[0] == _REGION
    return tensor


def _dims(data: bytes, start: int, stop: int, count: int) -> list[int]:
    """The first numbers of a shape, packed or not."""
    if start == NUMBER:
        return [signed(stop)][:count]
    dims: list[int] = []
    position = start
    while position < stop and len(dims) < count:
        value, position = read_varint(data, position, stop)
        dims.append(signed(value))
    return dims


def _parameter(message: Message, place: Place) -> tuple[str, int | str | None]:
    """Its name, and its value if that is a whole number or a text."""
    key, value = "", None
    for number, start, stop in message.fields(place):
        if start != NUMBER and number == 1:  # as in any map
            key = read_text(message.data, start, stop, _NAME_BYTES)
        elif start != NUMBER and number == 2:
            value = _parameter_value(message, (start, stop))
    return key, value


def _parameter_value(message: Message, place: Place) -> int | str | None:
    value: int | str | None = None
    for number, start, stop in message.fields(place):
        if start != NUMBER and number == InferParameter.STRING_PARAM_FIELD_NUMBER:
            value = read_text(message.data, start, stop, _TARGET_BYTES)
        elif start == NUMBER and number == InferParameter.INT64_PARAM_FIELD_NUMBER:
            value = signed(stop)
    return value


def _output(message: Message, place: Place, *, binary: bool) -> RequestedOutput:
    name = ""
    parameters: dict[str, int | str | None] = {}
    for number, start, stop in message.fields(place):
        if start != NUMBER and number == _Output.NAME_FIELD_NUMBER:
            name = read_text(message.data, start, stop, _NAME_BYTES)
        elif start != NUMBER and number == _Output.PARAMETERS_FIELD_NUMBER:
            parameters.update([_parameter(message, (start, stop))])
    if _REGION in parameters:
        raise refuse_shared_memory(f"output '{name[:50]}'")
    count, target = parameters.get("classification", 0), parameters.get("target")
    class_count = count if isinstance(count, int) else 0
    target = target if isinstance(target, str) else ""
    asked = RequestedOutput(name, class_count, target, binary)
    check_output(asked, class_count=class_count if "classification" in parameters else None)
    return asked


def _contents(
    message: Message, tensor: _Tensor, limits: Limits
) -> tuple[list[bytes], NDArray[np.uint8] | None]:
    """The encoded images or the pixels of an input."""
    if message.raw:
        raw = memoryview(message.data)[slice(*message.raw[0])]
        if tensor.name == PIXELS:
            return [], raw_pixels(raw, tensor.shape, limits)
        return raw_images(raw, tensor.shape, limits), None
    if tensor.name == PIXELS:
        return [], _pixels(message, tensor, limits)
    return _images(message, tensor, limits), None


def _images(message: Message, tensor: _Tensor, limits: Limits) -> list[bytes]:
    places: list[Place] = []
    for contents in tensor.contents:
        for number, start, stop in message.fields(contents):
            if start != NUMBER and number == InferTensorContents.BYTES_CONTENTS_FIELD_NUMBER:
                places.append((start, stop))
                check_image_count(len(places), limits.max_request_images, " or more")
    check_image_shape(len(places), tensor.shape, limits)
    check_sizes([stop - start for start, stop in places], limits)
    return [message.data[start:stop] for start, stop in places]


def _pixels(message: Message, tensor: _Tensor, limits: Limits) -> NDArray[np.uint8]:
    data = message.data
    places: list[Place] = []
    for contents in tensor.contents:
        places += [
            (start, stop)
            for number, start, stop in message.fields(contents)
            if number == InferTensorContents.UINT_CONTENTS_FIELD_NUMBER
        ]
    counts = [count_packed(data, start, stop) if start != NUMBER else 1 for start, stop in places]
    check_pixel_shape(sum(counts), tensor.shape, limits)
    values = np.empty(sum(counts), np.uint8)
    too_large = BadRequest(f"input '{PIXELS}' holds a number above 255; pixels are 0..255")
    filled = 0
    for (start, stop), count in zip(places, counts, strict=True):
        part = values[filled : filled + count]
        filled += count
        if start != NUMBER:
            read_packed_bytes(data, start, stop, part, too_large)
        elif stop > 255:
            raise too_large
        else:
            part[0] = stop
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
        tensor = response.outputs.add(
            name=output.asked.name, datatype=output.datatype, shape=output.shape
        )
        if output.asked.binary:
            response.raw_output_contents.append(as_raw(output))
        elif isinstance(output.values, list):
            tensor.contents.bytes_contents.extend(output.values)
        elif output.datatype == "BOOL":
            tensor.contents.bool_contents.extend(map(bool, output.values.ravel()))
        else:  # of 1,000 classes a list takes 27 microseconds, the array's own elements 152
            tensor.contents.fp32_contents.extend(output.values.ravel().tolist())
    return response
