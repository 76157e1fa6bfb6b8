"""Open Inference Protocol v2 over HTTP: JSON, with or without binary tensors, <-> requests and
answers of the core.

With the binary extension the body is a JSON header, whose length is told by an HTTP header, and the
raw contents of the tensors behind it. In JSON alone, the elements of `image` are base64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import to_json

from serving.core.dataplane import Limits
from serving.core.errors import BadRequest
from serving.core.requests import Deadline, InferRequest, InferResponse, RequestedOutput
from serving.core.tensors import (
    IMAGE,
    PIXELS,
    Computed,
    check_output,
    check_output_count,
    compute,
    default_outputs,
)
from serving.open_inference.base64_text import decode_image
from serving.open_inference.inputs import (
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
from serving.open_inference.json_data import Data, take_out_data
from serving.open_inference.json_header import Header, Input, Output, parse_header
from serving.open_inference.pixel_text import count_numbers, read_numbers
from serving.open_inference.raw import as_raw

# Values written with one call, which holds the GIL: a few milliseconds.
_PIECE = 16_384


def read_request(
    body: bytes,
    header_length: int | None,
    limits: Limits,
    *,
    version: str = "",
    deadline: Deadline | None = None,
) -> InferRequest:
    """Read a body.

    Args:
        header_length: bytes of the JSON before the binary tensors; None: all of it is JSON.

    Raises:
        BadRequest: it isn't as the protocol says.
        TooLarge: too many images, one of them is too large, or what is around them is.
    """
    if header_length is not None and not 0 < header_length <= len(body):
        raise BadRequest(f"the header is {header_length} bytes long, the body {len(body)}")
    end = len(body) if header_length is None else header_length
    split = take_out_data(body, end, limits.max_request_images)
    header = parse_header(split.header)
    check_names([tensor.name for tensor in header.inputs])
    tensor = header.inputs[0]
    check_datatype(tensor.name, tensor.datatype)
    outputs = _outputs(header)
    raw = _raw(tensor, memoryview(body)[end:])
    images, pixels = _contents(tensor, raw, body, split.data, limits)
    return InferRequest(
        images=images,
        pixels=pixels,
        outputs=outputs,
        version=version,
        id=check_id(header.id or ""),
        deadline=deadline,
        explain=explained(outputs),
        all_or_nothing=True,
    )


def _raw(tensor: Input, rest: memoryview) -> memoryview | None:
    """What lies behind the JSON for an input, if it says so."""
    parameters = tensor.parameters
    if parameters is not None and parameters.shared_memory_region is not None:
        raise refuse_shared_memory(f"input '{tensor.name}'")
    size = None if parameters is None else parameters.binary_data_size
    if size is not None and size > len(rest):
        raise BadRequest(
            f"input '{tensor.name}' announces {size} binary bytes, {len(rest)} are there"
        )
    if len(rest) > (size or 0):
        raise BadRequest(f"{len(rest) - (size or 0)} bytes are left behind the binary tensors")
    return None if size is None else rest


def _contents(
    tensor: Input, raw: memoryview | None, body: bytes, taken: Sequence[Data], limits: Limits
) -> tuple[list[bytes], NDArray[np.uint8] | None]:
    """The encoded images or the pixels of an input."""
    if raw is not None:
        if tensor.data is not None:
            raise BadRequest(f"input '{tensor.name}' has data and binary_data_size; send one")
        if tensor.name == PIXELS:
            return [], raw_pixels(raw, tensor.shape, limits)
        return raw_images(raw, tensor.shape, limits), None
    if tensor.data is None:
        raise BadRequest(f"input '{tensor.name}' has no 'data'; they must be a list")
    if not 0 <= tensor.data < len(taken):  # the key had an escape, which nobody writes
        raise BadRequest(f"input '{tensor.name}' has no 'data'; they must be a list")
    data = taken[tensor.data]
    if tensor.name == PIXELS:
        return [], _pixels(memoryview(body)[data.start : data.stop], tensor.shape, limits)
    return _images(body, data, tensor.shape, limits), None


def _images(body: bytes, data: Data, shape: Sequence[int], limits: Limits) -> list[bytes]:
    if data.strings is None:
        if body[data.start : min(data.stop, data.start + 1000)].translate(None, b"[] \t\r\n"):
            raise BadRequest(f"the data of '{IMAGE}' must be strings of base64, one an image")
        check_image_shape(0, shape, limits)
    check_image_shape(len(data.strings or ()), shape, limits)
    images = []
    for index, (start, stop) in enumerate(data.strings or ()):
        where = f"image {index}" if shape[0] > 1 else "the image"
        images.append(decode_image(body, start, stop, where))
    check_sizes(map(len, images), limits)
    return images


def _pixels(text: memoryview, shape: Sequence[int], limits: Limits) -> NDArray[np.uint8]:
    count = count_numbers(text)
    if len(text) < _PIECE:  # a better message for what isn't numbers at all
        read_numbers(text, count)
    check_pixel_shape(count, shape, limits)
    return read_numbers(text, count).reshape(list(shape))


def _outputs(header: Header) -> list[RequestedOutput]:
    check_output_count(len(header.outputs or ()))
    parameters = header.parameters
    binary = bool(parameters is not None and parameters.binary_data_output)
    if not header.outputs:
        return default_outputs(binary=binary)
    return [_output(output, binary) for output in header.outputs]


def _output(output: Output, binary_by_default: bool) -> RequestedOutput:
    parameters = output.parameters
    if parameters is None:
        asked = RequestedOutput(output.name, binary=binary_by_default)
        check_output(asked, class_count=None)
        return asked
    if parameters.shared_memory_region is not None:
        raise refuse_shared_memory(f"output '{output.name[:50]}'")
    binary = parameters.binary_data
    asked = RequestedOutput(
        name=output.name,
        class_count=parameters.classification or 0,
        target=parameters.target or "",
        binary=binary_by_default if binary is None else binary,
    )
    check_output(asked, class_count=parameters.classification)
    return asked


def write_response(request: InferRequest, answer: InferResponse) -> tuple[bytes, int | None]:
    """The body of the answer, and the length of its JSON header if binary tensors follow it.

    Raises:
        RequestError: see `serving.core.tensors.compute`.
    """
    described: list[bytes] = []
    binary: list[bytes] = []
    for tensor in compute(answer, request.outputs):
        head: dict[str, Any] = {
            "name": tensor.asked.name, "datatype": tensor.datatype, "shape": tensor.shape
        }  # fmt: skip
        if tensor.asked.binary:
            binary.append(as_raw(tensor))
            head["parameters"] = {"binary_data_size": len(binary[-1])}
            described.append(to_json(head))
        else:
            described.append(to_json(head)[:-1] + b',"data":[' + _data(tensor) + b"]}")
    start: dict[str, Any] = {
        "model_name": answer.model.name, "model_version": answer.model.version
    }  # fmt: skip
    if request.id:
        start["id"] = request.id
    header = to_json(start)[:-1] + b',"outputs":[' + b",".join(described) + b"]}"
    return b"".join([header, *binary]), len(header) if binary else None


def _data(tensor: Computed) -> bytes:
    """Its values as JSON, without brackets."""
    values = tensor.values
    flat = values if isinstance(values, list) else values.ravel()
    pieces = (flat[start : start + _PIECE] for start in range(0, len(flat), _PIECE))
    return b",".join(
        to_json([word.decode() for word in piece] if isinstance(piece, list) else piece.tolist())[
            1:-1
        ]
        for piece in pieces
    )
