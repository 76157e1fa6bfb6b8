from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocol.open_inference_pb2 import InferTensorContents
from serving.core.errors import BadRequest, TooLarge
from serving.open_inference import wire
from serving.open_inference.wire import MAX_FIELDS, NUMBER, Budget, Field, Malformed


def fields(data: bytes) -> list[Field]:
    return wire.read_fields(data, 0, len(data), Budget())


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def test_fields_by_number_with_places_and_values() -> None:
    # Field 1: 150, as in protobuf's own documentation; 2: "testing"; a fixed32 and a fixed64 that
    # nothing here needs; 16: empty bytes behind a key of two.
    data = (
        bytes.fromhex("08 9601") + b"\x12\x07testing" + b"\x1d" + b"\xff" * 4 + b"\x21" + b"\0" * 8
        + bytes.fromhex("8201 00")
    )  # fmt: skip
    assert fields(data) == [(1, NUMBER, 150), (2, 5, 12), (16, len(data), len(data))]
    assert data[5:12] == b"testing"


def test_a_part_of_a_message() -> None:
    data = b"\xff\xff" + b"\x12\x01a" + b"\xff"
    assert wire.read_fields(data, 2, 5, Budget()) == [(2, 4, 5)]


@pytest.mark.parametrize(
    "data",
    ["00", "08", "0880", "12", "1202 61", "12ffffffffff7f", "1d 0000", "21 00000000", "0b", "0c",
     "0f", "80", "0a 80", "08" + "ff" * 10, "00 01"],
)  # fmt: skip
def test_no_message(data: str) -> None:
    with pytest.raises(Malformed, match="the request is not a message of this call"):
        fields(bytes.fromhex(data))


def test_fields_are_counted_over_all_levels() -> None:
    budget = Budget()
    data = b"\x08\x01" * (MAX_FIELDS - 1)
    assert len(wire.read_fields(data, 0, len(data), budget)) == MAX_FIELDS - 1
    wire.read_fields(b"\x08\x01", 0, 2, budget)
    with pytest.raises(TooLarge, match=r"more than 4,096 fields; send tensors as raw_input"):
        wire.read_fields(b"\x08\x01", 0, 2, budget)


@given(st.integers(0, 2**64 - 1), st.binary(max_size=3), st.binary(max_size=3))
def test_any_number(value: int, before: bytes, behind: bytes) -> None:
    data = before + varint(value) + behind
    stop = len(data) - len(behind)
    assert wire.read_varint(data, len(before), stop) == (value, stop)
    with pytest.raises(Malformed):
        wire.read_varint(data, len(before), stop - 1)


@given(st.integers(-(2**63), 2**63 - 1))
def test_numbers_with_a_sign(value: int) -> None:
    assert wire.signed(value % 2**64) == value


def test_texts() -> None:
    data = "<né>".encode()
    assert wire.read_text(data, 1, 4, 3) == "né"
    assert wire.read_text(data, 1, 4, 2) == "n"  # no half letter
    for end in (3, 4):
        with pytest.raises(Malformed):
            wire.read_text(b"n\xffx\xff", 0, end, 9)


@pytest.fixture
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """What numbers of megabytes are."""
    monkeypatch.setattr(wire, "_PIECE", 3)


@pytest.mark.usefixtures("_small_pieces")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 255), max_size=20))
def test_packed_pixels_as_protobuf_packs_them(values: list[int]) -> None:
    message = InferTensorContents(uint_contents=values).SerializeToString()
    for _, start, stop in fields(message):
        assert wire.count_packed(message, start, stop) == len(values)
        into = np.full(len(values), 99, np.uint8)
        wire.read_packed_bytes(message, start, stop, into, BadRequest("too large"))
        assert into.tolist() == values


@pytest.mark.usefixtures("_small_pieces")
@pytest.mark.parametrize("value", [256, 300, 2**14, 2**32 - 1])
@pytest.mark.parametrize("place", range(5))
def test_a_packed_number_above_255(value: int, place: int) -> None:
    numbers = [1, 200, 3, 255]
    numbers.insert(place, value)
    packed = b"".join(map(varint, numbers))
    assert wire.count_packed(packed, 0, len(packed)) == 5
    with pytest.raises(BadRequest, match="^too large$"):
        wire.read_packed_bytes(
            packed, 0, len(packed), np.zeros(5, np.uint8), BadRequest("too large")
        )


def test_packed_numbers_that_end_early() -> None:
    with pytest.raises(Malformed):
        wire.count_packed(b"\x01\x80", 0, 2)
    assert wire.count_packed(b"\x01\x80", 0, 1) == 1
    assert wire.count_packed(b"", 0, 0) == 0
