"""What the codecs check alike of a request's input: name, type, shape and size. All of it is
compared before anything is built, so that a request costs no more than its bytes."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from serving.core import tensors
from serving.core.dataplane import Limits
from serving.core.errors import BadRequest
from serving.core.explainer import ExplainRequest
from serving.core.requests import RequestedOutput, check_image_count, check_image_size
from serving.core.tensors import IMAGE, PIXELS

# In characters. A longer one is no name of a request.
MAX_ID_LENGTH = 1024
_NAMES_TOLD = 4
_LENGTH = struct.Struct("<I")


def check_id(value: str) -> str:
    """The client's id of a request.

    Raises:
        BadRequest: it is too long to be repeated in the answer.
    """
    if len(value) > MAX_ID_LENGTH:
        raise BadRequest(
            f"the id has {len(value):,} characters, the limit is {MAX_ID_LENGTH:,}; shorten it"
        )
    return value


def check_names(names: Sequence[str]) -> None:
    """Raise BadRequest unless there is one input, of a known name."""
    if len(names) != 1 or tensors.input_tensor(names[0]) is None:
        known = [tensor.name for tensor in tensors.INPUTS]
        told = ", ".join(f"'{name[:50]}'" for name in names[:_NAMES_TOLD]) or "none"
        more = ", ..." if len(names) > _NAMES_TOLD else ""
        options = " or ".join(f"'{name}'" for name in known)
        raise BadRequest(f"the inputs are {told}{more}; there must be one, named {options}")


def check_datatype(name: str, datatype: str) -> None:
    """Raise BadRequest for another one than the input's."""
    tensor = tensors.input_tensor(name)
    expected = "" if tensor is None else tensor.datatype
    if datatype != expected:
        what = ": one encoded image (JPEG, PNG, ...) an element" if expected == "BYTES" else ""
        raise BadRequest(
            f"input '{name}' has datatype '{datatype[:20]}', it must be {expected}{what}"
        )


def refuse_shared_memory(what: str) -> BadRequest:
    return BadRequest(
        f"{what} is in shared memory, which this service doesn't read or write; send and receive "
        "tensors in the messages themselves"
    )


def check_image_shape(count: int, shape: Sequence[int], limits: Limits) -> None:
    """Raise where a shape isn't that of so many images, or where they are too many."""
    check_image_count(count, limits.max_request_images)
    # Compared, not multiplied: a shape can be as long as the message, of numbers as large as int64.
    if not count or list(shape[:3]) not in ([count], [count, 1]):
        raise BadRequest(
            f"input '{IMAGE}' has shape {list(shape)[:8]} and {count} elements; the shape must be "
            "[N] with N >= 1 images"
        )


def check_pixel_shape(count: int, shape: Sequence[int], limits: Limits) -> None:
    """Raise where a shape isn't that of so many values, or where they are too many images."""
    first = list(shape[:5])
    # As above: sizes are bounded before they are multiplied.
    fits = len(first) == 4 and all(0 < length <= count for length in first)
    if not fits or math.prod(first) != count:
        raise BadRequest(
            f"input '{PIXELS}' has shape {first} and {count} values; the shape must be "
            "[N, S, S, 3] with N >= 1"
        )
    check_image_count(first[0], limits.max_request_images)


def raw_pixels(raw: bytes | memoryview, shape: Sequence[int], limits: Limits) -> NDArray[np.uint8]:
    """uint8[N,S,S,3] over the same memory."""
    values = np.frombuffer(raw, np.uint8)
    check_pixel_shape(values.size, shape, limits)
    return values.reshape(shape)


def raw_images(raw: bytes | memoryview, shape: Sequence[int], limits: Limits) -> list[bytes]:
    """The elements of a serialised BYTES tensor: a little-endian uint32 length before each."""
    ranges: list[tuple[int, int]] = []
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
        ranges.append((start, position))
        check_image_count(len(ranges), limits.max_request_images, " or more")
    check_image_shape(len(ranges), shape, limits)
    check_sizes((stop - start for start, stop in ranges), limits)
    return [bytes(raw[start:stop]) for start, stop in ranges]


def check_sizes(sizes: Iterable[int], limits: Limits) -> None:
    """Raise TooLarge where an encoded image is; the whole request fails with it."""
    for index, size in enumerate(sizes):
        check_image_size(size, limits.max_image_bytes, f"image {index}")


def explained(outputs: Sequence[RequestedOutput]) -> tuple[ExplainRequest, ...]:
    """The heat maps that the outputs need: those of one label are made once."""
    targets = dict.fromkeys(o.target for o in outputs if o.name == tensors.HEAT_MAP)
    return tuple(ExplainRequest(target) for target in targets)
