"""Output tensors as raw bytes: little-endian, BYTES elements each after their uint32 length, a byte
for each BOOL."""

from __future__ import annotations

import struct

from serving.core.tensors import Computed

_LENGTH = struct.Struct("<I")


def as_raw(tensor: Computed) -> bytes:
    values = tensor.values
    if isinstance(values, list):
        return b"".join(_LENGTH.pack(len(value)) + value for value in values)
    return values.astype("?" if tensor.datatype == "BOOL" else "<f4", copy=False).tobytes()
