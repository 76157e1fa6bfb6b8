"""Reads protobuf's encoding field by field, as far as a request is described by it.

protobuf's own parser makes 16 bytes of each element of two, and doubles the room that it takes for
them, before anybody can count; and it holds the event loop for as long. A test compares the two.
See protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from serving.core.errors import BadRequest, RequestError, TooLarge

MAX_FIELDS = 4_096
_PIECE = 1 << 18
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class Malformed(BadRequest):
    """The bytes are no message."""

    def __init__(self) -> None:
        super().__init__("the request is not a message of this call; see the server's reflection")


@dataclass(slots=True)
class Budget:
    """How many fields may still be read of a message and those within it."""

    fields: int = field(default=MAX_FIELDS)

    def spend(self) -> None:
        self.fields -= 1
        if self.fields < 0:
            raise TooLarge(
                f"the message has more than {MAX_FIELDS:,} fields; send tensors as "
                "raw_input_contents, or numbers packed"
            )


# Number of the field, and of bytes, a text or a message the places of its first byte and behind its
# last; of a number NUMBER and its value. Plain tuples: requests wait while this is read.
Field = tuple[int, int, int]
NUMBER = -1
# The places of bytes, a text or a message.
Place = tuple[int, int]


def read_fields(data: bytes, start: int, stop: int, budget: Budget) -> list[Field]:
    """The fields of the message that is `data[start:stop]`.

    Raises:
        Malformed, TooLarge
    """
    fields: list[Field] = []
    position = start
    while position < stop:
        budget.spend()
        # Numbers of one byte, as nearly all are here, are read in place: half of what this takes.
        key = data[position]
        position += 1
        if key >= 128:
            key, position = read_varint(data, position - 1, stop)
        number, kind = key >> 3, key & 7
        if not number:
            raise Malformed
        if kind == _BYTES:
            length = data[position] if position < stop else 128
            if length < 128:
                position += 1
            else:
                length, position = read_varint(data, position, stop)
            end = position + length
            if end > stop:
                raise Malformed
            fields.append((number, position, end))
        elif kind == _VARINT:
            value, end = read_varint(data, position, stop)
            fields.append((number, NUMBER, value))
        elif kind in (_FIXED32, _FIXED64):
            end = position + (4 if kind == _FIXED32 else 8)
            if end > stop:
                raise Malformed
        else:  # groups, which proto3 doesn't have
            raise Malformed
        position = end
    return fields


def read_varint(data: bytes, position: int, stop: int) -> tuple[int, int]:
    """A number below 2^64, and the place behind it."""
    value = shift = 0
    while position < stop and shift < 70:
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & (2**64 - 1), position
        shift += 7
    raise Malformed


def read_text(data: bytes, start: int, stop: int, max_bytes: int) -> str:
    """A text, or its beginning."""
    try:
        if stop - start <= max_bytes:
            return data[start:stop].decode()
        return data[start : start + max_bytes].decode(errors="ignore")
    except UnicodeDecodeError:
        raise Malformed from None


def signed(value: int) -> int:
    """An int64 as it was meant."""
    return value - 2**64 if value >= 2**63 else value


def count_packed(data: bytes, start: int, stop: int) -> int:
    """How many numbers are packed there; nothing is built for the answer."""
    view = memoryview(data)[start:stop]
    if view and view[-1] >= 128:
        raise Malformed
    pieces = (view[place : place + _PIECE] for place in range(0, len(view), _PIECE))
    return sum(int(np.count_nonzero(np.frombuffer(piece, np.uint8) < 128)) for piece in pieces)


def read_packed_bytes(
    data: bytes, start: int, stop: int, into: NDArray[np.uint8], too_large: RequestError
) -> None:
    """Packed numbers below 256, as many as `into` has room for; raises `too_large` for others."""
    filled, position = 0, start
    while position < stop:
        end = min(position + _PIECE, stop)
        while end < stop and data[end - 1] >= 128:
            end += 1
        values = _small_numbers(np.frombuffer(data, np.uint8, end - position, position), too_large)
        into[filled : filled + values.size] = values
        filled += values.size
        position = end


def _small_numbers(piece: NDArray[np.uint8], too_large: RequestError) -> NDArray[np.uint8]:
    """Of one byte each up to 127, else of two, of which the second is 1."""
    goes_on = piece >= 128
    at = np.flatnonzero(~goes_on)
    two = np.zeros(at.size, np.bool_)
    two[1:] = goes_on[at[1:] - 1]
    two[:1] = at[:1] > 0
    lengths = np.diff(at, prepend=-1)
    if (lengths > 2).any() or (piece[at[two]] != 1).any():
        raise too_large
    values = piece[at]
    values[two] = piece[at[two] - 1]  # its highest bit, which says that it goes on, is 128's
    return values
