"""Bodies that would cost more than their bytes if anything were built before it is counted."""

from __future__ import annotations

import base64
import json
import random
import struct
from dataclasses import dataclass, field

from protocol import open_inference_pb2 as pb

INFER = "/v2/models/vgg19/infer"
_METHOD = "/inference.GRPCInferenceService/"
_JSON = {"Content-Type": "application/json"}
_PNG = {"Content-Type": "image/png"}
_FORM = {"Content-Type": "multipart/form-data; boundary=x"}
_IMAGE = b'{"inputs":[{"name":"image","datatype":"BYTES","shape":[1],"data":'
_PIXELS = b'{"inputs":[{"name":"pixels","datatype":"UINT8","shape":[%d,32,32,3],"data":'
_PART = b'--x\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
_FILE = b'; filename="a.png"'
_VALUES = 32 * 32 * 3


@dataclass(frozen=True)
class Costly:
    """path: of HTTP, or the method of a gRPC call (without headers)."""

    name: str
    path: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def is_grpc(self) -> bool:
        return self.path.startswith(_METHOD)


def corpus(size: int) -> list[Costly]:
    """Each about `size` bytes long."""
    return [
        *(Costly(f"JSON: {name}", INFER, body, _JSON) for name, body in _json(size).items()),
        *_binary(size),
        *(Costly(f"form: {name}", "/classify", body, _FORM) for name, body in _forms(size).items()),
        Costly("raw body", "/classify", random.Random(1).randbytes(size), _PNG),
        *(
            Costly(f"gRPC: {name}", _METHOD + "ModelInfer", b"\x0a\x05vgg19" + body)
            for name, body in _messages(size).items()
        ),
        Costly("gRPC: metadata of a long name", _METHOD + "ModelMetadata", _bytes(1, b"x" * size)),
        Costly("gRPC: load with many parameters", _METHOD + "RepositoryModelLoad", _entries(size)),
    ]


def _filled(element: bytes, size: int) -> bytes:
    """A list of it, without brackets."""
    return element + (b"," + element) * (size // (len(element) + 1))


def _json(size: int) -> dict[str, bytes]:
    around = b'{"inputs":[{"name":"image","datatype":"BYTES","shape":[1],"data":["aGk="]}]'
    count = size // 4 // _VALUES
    valid = b",".join(b"%d" % (i % 256) for i in range(_VALUES)) + b","
    some = random.Random(2)
    words = [b'"' + b"y" * some.choice((1, 2, 3, 10_000)) + b'"' for _ in range(size // 3_000)]
    elements = {
        "empty lists": b"[]",
        "lists of a number": b"[1]",
        "numbers": b"1",
        "large numbers": b"256",
        "huge numbers": b"9" * 300,
        "floats": b"0.5",
        "empty strings": b'""',
        "objects": b"{}",
        "nulls": b"null",
    }
    bodies = {
        f"{name} as {what}": head + b"[" + _filled(element, size) + b"]}]}"
        for name, element in elements.items()
        for what, head in (("images", _IMAGE), ("pixels", _PIXELS % 1))
    }
    image = base64.b64encode(some.randbytes(size * 3 // 4))
    return bodies | {
        "deep": b'{"inputs":' + b"[" * size,
        "deep pixels": _PIXELS % 1 + b"[" * (size // 2) + b"1" + b"]" * (size // 2) + b"}]}",
        "deep images": _IMAGE + b"[" * (size // 2) + b'"aGk="' + b"]" * (size // 2) + b"}]}",
        "strings of any length as pixels": _PIXELS % 1 + b"[" + b",".join(words) + b"]}]}",
        "strings of any length as images": _IMAGE + b"[" + b",".join(words) + b"]}]}",
        "pixels": _PIXELS % count + b"[" + (valid * count)[:-1] + b"]}]}",
        "an image": _IMAGE + b'["' + image + b'"]}]}',
        "an image with escapes": _IMAGE + b'["' + b"\\/" * (size // 2) + b'"]}]}',
        "an image with line breaks": _IMAGE + b'["' + b"AAA\\n" * (size // 5) + b'"]}]}',
        "an image of padding": _IMAGE + b'["' + b"=" * size + b'"]}]}',
        "a long shape": b'{"inputs":[{"shape":[' + _filled(b"9" * 18, size) + b"]}]}",
        "a long name": b'{"inputs":[{"name":"' + b"x" * size + b'"}]}',
        "a long id": around + b',"id":"' + b"x" * size + b'"}',
        "an id of escapes": around + b',"id":"' + b"\\u2603" * (size // 6) + b'"}',
        "a string without end": around + b',"id":"' + b'\\"' * (size // 2),
        "many outputs": around + b',"outputs":[' + _filled(b'{"name":"label"}', size) + b"]}",
        "many inputs": b'{"inputs":[' + _filled(b'{"data":[]}', size) + b"]}",
        "many members": b"{" + _filled(b'"x":1', size) + b"}",
        "parameters": around + b',"parameters":{"x":[' + _filled(b"[]", size) + b"]}}",
        "blanks": around + b" " * size + b"}",
        "no JSON": b"\xff" * size,
        "quotes": b'"' * size,
    }


def _binary(size: int) -> list[Costly]:
    contents = {
        "empty elements": b"\0\0\0\0" * (size // 4),
        "one element": struct.pack("<I", size) + b"x" * size,
        "a length too large": struct.pack("<I", 2**32 - 1) + b"x" * size,
    }
    costly = [
        _with_header(f"binary: {name}", "image", "BYTES", [1], raw)
        for name, raw in contents.items()
    ]
    count = size // _VALUES
    raw = b"\x07" * (count * _VALUES)
    return [*costly, _with_header("binary: pixels", "pixels", "UINT8", [count, 32, 32, 3], raw)]


def _with_header(name: str, tensor: str, datatype: str, shape: list[int], raw: bytes) -> Costly:
    described = {"name": tensor, "datatype": datatype, "shape": shape}
    size = {"parameters": {"binary_data_size": len(raw)}}
    text = json.dumps({"inputs": [described | size]}).encode()
    headers = {
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": str(len(text)),
    }
    return Costly(name, INFER, text + raw, headers)


def _forms(size: int) -> dict[str, bytes]:
    end = b"--x--\r\n"
    tiny = _PART % (b"image", _FILE, b"")
    option = _PART % (b"top_k", b"", b"1")
    return {
        "many images": tiny * (size // len(tiny)) + end,
        "many fields": option * (size // len(option)) + end,
        "a long name": _PART % (b"x" * size, b"", b"1") + end,
        "a long file name": _PART % (b"image", b'; filename="' + b"x" * size + b'"', b"1") + end,
        "a long field": _PART % (b"top_k", b"", b"1" * size) + end,
        "many headers": b"--x\r\n" + b"A: b\r\n" * (size // 6) + b"\r\n\r\n" + end,
        "a long image": _PART % (b"image", _FILE, b"x" * size) + end,
        "line breaks": _PART % (b"image", _FILE, b"\r\n-" * (size // 3)) + end,
        "no boundary": b"\r\n" * (size // 2),
    }


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _bytes(number: int, value: bytes) -> bytes:
    """A field of bytes, a text or a message."""
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _tensor(contents: bytes, name: str = "image", count: int = 1) -> bytes:
    is_image = name == "image"
    described = pb.ModelInferRequest.InferInputTensor(
        name=name,
        datatype="BYTES" if is_image else "UINT8",
        shape=[count] if is_image else [count, 32, 32, 3],
    ).SerializeToString()
    return _bytes(5, described + (_bytes(5, contents) if contents else b""))


def _messages(size: int) -> dict[str, bytes]:
    many = size // 2
    count, half = size // _VALUES, many // _VALUES
    whole = b"\x07" * (count * _VALUES)
    image = _tensor(_bytes(8, b"x"))
    parameters = (_bytes(4, _bytes(1, b"%06x" % n) + _bytes(2, b"")) for n in range(size // 12))
    return {
        "empty elements": _tensor(b"\x42\x00" * many),
        "raw empty elements": _tensor(b"") + _bytes(7, b"\0\0\0\0" * (size // 4)),
        "an image": _tensor(_bytes(8, b"x" * size)),
        "a raw image": _tensor(b"") + _bytes(7, struct.pack("<I", size) + b"x" * size),
        "pixels": _tensor(_bytes(4, whole), "pixels", count),
        "pixels above 127": _tensor(_bytes(4, b"\xff\x01" * half * _VALUES), "pixels", half),
        "pixels above 255": _tensor(_bytes(4, b"\x80\x02" * half * _VALUES), "pixels", half),
        "pixels beyond the shape": _tensor(_bytes(4, b"\x07" * size), "pixels"),
        "pixels not packed": _tensor(b"\x20\x07" * many, "pixels"),
        "raw pixels": _tensor(b"", "pixels", count) + _bytes(7, whole),
        "floats": _tensor(_bytes(6, b"\0" * (size // 4 * 4)), "pixels"),
        "a long shape": _bytes(5, _bytes(1, b"image") + _bytes(3, b"\x01" * size)),
        "a shape not packed": _bytes(5, b"\x18\x01" * many),
        "many inputs": b"\x2a\x00" * many,
        "many outputs": image + b"\x32\x00" * many,
        "many raw contents": _tensor(b"") + b"\x3a\x00" * many,
        "many parameters": image + b"".join(parameters),
        "parameters of an output": image + _bytes(6, _bytes(1, b"label") + b"\x12\x00" * many),
        "unknown fields": image + b"\xf8\x01\x00" * (size // 3),
        "groups": image + b"\xfb\x01" * many,
        "a long name": _bytes(5, _bytes(1, b"x" * size)),
        "a long id": image + _bytes(3, b"x" * size),
        "no message": b"\xff" * size,
    }


def _entries(size: int) -> bytes:
    """Of RepositoryModelLoadRequest's map."""
    return b"".join(_bytes(3, _bytes(1, b"%06x" % number)) for number in range(size // 12))
