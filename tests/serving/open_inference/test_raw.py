from __future__ import annotations

import numpy as np
import pytest

from serving.core.requests import RequestedOutput
from serving.core.tensors import Computed, Datatype, Values
from serving.open_inference.raw import as_raw


def computed(values: Values, datatype: Datatype) -> Computed:
    shape = [len(values)] if isinstance(values, list) else list(values.shape)
    return Computed(RequestedOutput("any"), datatype, shape, values)


def test_bytes_elements_have_their_length_before_them() -> None:
    elements = [b"red", b"", "é".encode()]
    expected = b"\x03\0\0\0red" + b"\0\0\0\0" + b"\x02\0\0\0\xc3\xa9"
    assert as_raw(computed(elements, "BYTES")) == expected
    assert as_raw(computed([], "BYTES")) == b""


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8"])
def test_numbers_are_little_endian_float32(dtype: str) -> None:
    values = np.array([[0.5, -2.0], [1.0, 0.0]], dtype)
    raw = as_raw(computed(values.T, "FP32"))  # row by row, however it lies in memory
    assert raw == bytes.fromhex("0000003f 0000803f 000000c0 00000000")


def test_a_byte_for_each_bool() -> None:
    assert as_raw(computed(np.array([True, False, True]), "BOOL")) == b"\1\0\1"
