"""Requests of the Open Inference Protocol v2 over HTTP, of images that the client has decoded."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import httpx
import numpy as np
from numpy.typing import NDArray

PATH = "/v2/models/vgg19/infer"
JSON, BINARY = "v2 json", "v2 binary"
_OUTPUT = "probabilities"


@dataclass(frozen=True)
class Body:
    """A request's, and what its head says of it."""

    content: bytes
    content_type: str
    headers: Mapping[str, str] = field(default_factory=dict)


def body_of(kind: str, pixels: NDArray[np.uint8], name: str = "pixels") -> Body:
    """Args: kind: `JSON` or `BINARY`. pixels: uint8[N,S,S,3]. name: the server's, of its input."""
    tensor = {"name": name, "datatype": "UINT8", "shape": list(pixels.shape)}
    if kind == JSON:
        content = {"inputs": [{**tensor, "data": pixels.ravel().tolist()}]}
        return Body(json.dumps(content).encode(), "application/json")
    outputs = [{"name": _OUTPUT, "parameters": {"binary_data": True}}]
    return _binary(tensor, pixels.tobytes(), outputs=outputs)


def one_image(data: bytes) -> Body:
    """An encoded image as a BYTES tensor [1,1] in binary; the answer is JSON."""
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1, 1]}
    return _binary(tensor, struct.pack("<I", len(data)) + data)


def one_image_of_pixels(pixels: NDArray[np.uint8], name: str) -> Body:
    """uint8[S,S,3] as a tensor [1,S,S,3] in binary; the answer is JSON."""
    tensor = {"name": name, "datatype": "UINT8", "shape": [1, *pixels.shape]}
    return _binary(tensor, pixels.tobytes(), outputs=[{"name": _OUTPUT}])


def _binary(tensor: Mapping[str, object], raw: bytes, **more: object) -> Body:
    """The protocol's extension for binary tensors: JSON, and after it what it describes."""
    inputs = [{**tensor, "parameters": {"binary_data_size": len(raw)}}]
    head = json.dumps({"inputs": inputs, **more}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    return Body(head + raw, "application/octet-stream", headers)


def best_of(base: str, body: Body) -> Sequence[tuple[int, float]]:
    """The most probable class of each image and its probability, as the server answers.

    Raises:
        httpx.HTTPStatusError: it doesn't.
    """
    headers = {"Content-Type": body.content_type, **body.headers}
    reply = httpx.post(base + PATH, content=body.content, headers=headers, timeout=60)
    reply.raise_for_status()
    head = int(reply.headers.get("Inference-Header-Content-Length", len(reply.content)))
    raw = reply.content[head:]
    for output in json.loads(reply.content[:head])["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size", 0)
        if output["name"] == _OUTPUT:
            break
        raw = raw[size:]  # some servers answer with every output, whatever is asked for
    values = np.frombuffer(raw[:size], np.float32) if size else np.array(output["data"], np.float32)
    rows = values.reshape(output["shape"])
    return [(int(row.argmax()), float(row.max())) for row in rows]
