"""Coverage-guided fuzzing of everything that reads a client's bytes.

    make fuzz SECONDS=600

runs each target in a process of its own and keeps its corpus in build/fuzz. A target fails on any
exception but those that its docstring names, which libFuzzer writes to a file with the input.
"""

from __future__ import annotations

import asyncio
import io
import logging
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import atheris

_INSTRUMENTED = ["models", "PIL", "serving", "starlette", "python_multipart"]
with atheris.instrument_imports(include=_INSTRUMENTED):
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.types import Message

    from models.errors import ImageError
    from models.imaging.image import FORMATS, load_image
    from models.imaging.preprocessing import Preprocessing
    from protocol.open_inference_pb2 import ModelInferRequest
    from reliability import corpus
    from serving.core.dataplane import Limits
    from serving.core.errors import RequestError
    from serving.http.classify import _read_upload
    from serving.open_inference import json_codec, protobuf_codec

_PREPROCESSING = Preprocessing(image_size=32, resize_size=32)
_LIMITS = Limits(
    max_image_bytes=100_000,
    max_image_pixels=1_000_000,
    max_request_images=4,
    max_request_bytes=200_000,
    request_timeout_s=10.0,
    image_formats=FORMATS,
)
_PLACE = Path("build/fuzz")


def decoder(data: bytes) -> None:
    """Encoded images -> uint8[32,32,3] or ImageError."""
    try:
        pixels = load_image(data, _PREPROCESSING, max_pixels=_LIMITS.max_image_pixels)
    except ImageError:
        return
    assert pixels.shape == (32, 32, 3)


def json(data: bytes) -> None:
    """A v2 body in JSON -> a request or RequestError."""
    _read_v2(data, None)


def binary(data: bytes) -> None:
    """A v2 body with binary tensors, whose first two bytes are the header's length."""
    _read_v2(data[2:], int.from_bytes(data[:2], "little"))


def message(data: bytes) -> None:
    """A protobuf message -> a request or RequestError."""
    with suppress(RequestError):
        protobuf_codec.read_request(protobuf_codec.read_message(data), _LIMITS)


def multipart(data: bytes) -> None:
    """A form with the boundary `x` -> images, HTTPException or RequestError."""

    async def receive() -> Message:
        return {"type": "http.request", "body": data, "more_body": False}

    headers = [(b"content-type", b"multipart/form-data; boundary=x")]
    scope = {"type": "http", "method": "POST", "headers": headers, "app": None}  # as in an app
    request = Request(scope, receive)
    with suppress(HTTPException, RequestError):
        asyncio.run(_read_upload(request, _LIMITS))


def _read_v2(body: bytes, header_length: int | None) -> None:
    with suppress(RequestError):
        json_codec.read_request(body, header_length, _LIMITS)


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target for target in (decoder, json, binary, message, multipart)
}


def seeds(name: str) -> list[bytes]:
    """What the fuzzer begins with."""
    from PIL import Image

    images = []
    for kind in FORMATS:
        buffer = io.BytesIO()
        Image.new("RGB", (9, 7), (200, 30, 60)).save(buffer, kind)
        images.append(buffer.getvalue())
    images += [sample.data for sample in corpus.samples() if len(sample.data) < 1_000]
    text = (
        b'{"inputs":[{"name":"image","datatype":"BYTES","shape":[1],"data":["aGk="]}],'
        b'"outputs":[{"name":"probabilities","parameters":{"classification":2}}]}'
    )
    head = (
        b'{"inputs":[{"name":"image","datatype":"BYTES","shape":[1],'
        b'"parameters":{"binary_data_size":6}}]}'
    )
    request = ModelInferRequest(model_name="vgg19")
    tensor = request.inputs.add(name="image", datatype="BYTES", shape=[1])
    tensor.contents.bytes_contents.append(images[1])
    form = (
        b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n'
        b"Content-Type: image/png\r\n\r\n" + images[1] + b"\r\n--x--\r\n"
    )
    return {
        "decoder": images,
        "json": [text],
        "binary": [len(head).to_bytes(2, "little") + head + b"\x02\0\0\0hi"],
        "message": [request.SerializeToString()],
        "multipart": [form],
    }[name]


def main() -> None:
    name, seconds = sys.argv[1:]
    logging.disable()  # a line for each broken form
    corpus = _PLACE / "corpus" / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds(name)):
        (corpus / f"seed{number}").write_bytes(seed)
    found = _PLACE / f"{name}-"
    options = [
        f"-max_total_time={seconds}", "-max_len=20000", "-timeout=20", "-rss_limit_mb=4000",
        f"-artifact_prefix={found}", "-verbosity=0", "-print_final_stats=1", str(corpus),
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *options], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
