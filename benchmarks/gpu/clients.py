"""A closed loop of requests on many connections, in a process of its own.

    python -m benchmarks.gpu.clients KIND ADDRESS CONNECTIONS SECONDS BODY [IMAGES]

KIND: `jpeg` (POST /classify), `pixels` (v2 with a binary tensor) or `grpc` (ModelInfer of a JPEG),
`grpc-pixels`. BODY: a file, JPEG or raw uint8 pixels of IMAGES images. Prints one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import math
import sys
import time
from collections import Counter
from pathlib import Path

import grpc
import numpy as np

from protocol import open_inference_pb2 as pb

_UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class Loop:
    """What came of the requests: how long each took, and how they ended."""

    def __init__(self, seconds: float) -> None:
        self.until = time.perf_counter() + seconds
        self.times: list[float] = []
        self.outcomes: Counter[str] = Counter()

    @property
    def goes_on(self) -> bool:
        return time.perf_counter() < self.until

    def count(self, outcome: str, started: float) -> None:
        self.times.append(time.perf_counter() - started)
        self.outcomes[outcome] += 1


def main() -> None:
    kind, address, connections, seconds, body, *images = sys.argv[1:]
    content = Path(body).read_bytes()
    count = int(images[0]) if images else 1
    loop = Loop(float(seconds))
    if kind.startswith("grpc"):
        work = over_grpc(loop, address, int(connections), grpc_request(kind, content, count))
    else:
        work = over_http(
            loop, address, int(connections), http_request(kind, address, content, count)
        )
    started = time.perf_counter()
    asyncio.run(work)
    print(
        json.dumps(
            {
                "seconds": time.perf_counter() - started,
                "outcomes": loop.outcomes,
                "times": loop.times,
            }
        )
    )


def http_request(kind: str, address: str, content: bytes, images: int) -> bytes:
    """The whole request, head and body."""
    path, headers = "/classify", {"Content-Type": "image/jpeg"}
    if kind == "pixels":
        head = json.dumps(
            {"inputs": [_described(content, images)], "parameters": {"binary_data_output": True}}
        ).encode()
        path = "/v2/models/vgg19/infer"
        headers = {
            "Content-Type": "application/octet-stream",
            "Inference-Header-Content-Length": str(len(head)),
        }
        content = head + content
    headers |= {"Host": address, "Content-Length": str(len(content))}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


def _described(content: bytes, images: int) -> dict[str, object]:
    side = _side(content, images)
    return {"name": "pixels", "datatype": "UINT8", "shape": [images, side, side, 3],
            "parameters": {"binary_data_size": len(content)}}  # fmt: skip


def _side(content: bytes, images: int) -> int:
    return math.isqrt(len(content) // images // 3)


def grpc_request(kind: str, content: bytes, images: int) -> bytes:
    request = pb.ModelInferRequest(model_name="vgg19")
    if kind == "grpc":
        tensor = request.inputs.add(name="image", datatype="BYTES", shape=[1])
        request.raw_input_contents.append(np.uint32(len(content)).tobytes() + content)
    else:
        side = _side(content, images)
        tensor = request.inputs.add(name="pixels", datatype="UINT8", shape=[images, side, side, 3])
        request.raw_input_contents.append(content)
    assert tensor.name
    return request.SerializeToString()


async def over_http(loop: Loop, address: str, connections: int, request: bytes) -> None:
    host, port = address.split(":")
    await asyncio.gather(
        *(_http_client(loop, host, int(port), request) for _ in range(connections))
    )


async def _http_client(loop: Loop, host: str, port: int, request: bytes) -> None:
    """One connection, until it is closed by the server."""
    started = time.perf_counter()
    try:
        reader, writer = await asyncio.open_connection(host, port)
    except OSError:
        loop.count("not connected", started)
        return
    while loop.goes_on:
        started = time.perf_counter()
        try:
            writer.write(request)
            loop.count(await _answer(reader), started)
        except asyncio.IncompleteReadError as error:  # between answers, or within one
            loop.count("cut off" if error.partial else "closed", started)
            break
        except OSError:
            loop.count("closed", started)
            break
    writer.close()


async def _answer(reader: asyncio.StreamReader) -> str:
    """The status of an answer, read to its end."""
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.decode("latin-1").lower().split("\r\n")
    length = next(int(line.split(":")[1]) for line in lines if line.startswith("content-length"))
    await reader.readexactly(length)
    return lines[0].split(" ")[1]


async def over_grpc(loop: Loop, address: str, calls: int, request: bytes) -> None:
    channels = [
        grpc.aio.insecure_channel(address, [*_UNLIMITED, ("grpc.use_local_subchannel_pool", 1)])
        for _ in range(4)
    ]
    send = [
        channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=lambda message: message,
            response_deserializer=lambda message: message,
        )
        for channel in channels
    ]
    await asyncio.gather(
        *(_grpc_client(loop, send[number % 4], request) for number in range(calls))
    )
    for channel in channels:
        await channel.close(None)


async def _grpc_client(loop: Loop, send: object, request: bytes) -> None:
    while loop.goes_on:
        started = time.perf_counter()
        try:
            await send(request)  # type: ignore[operator]
            loop.count("ok", started)
        except grpc.aio.AioRpcError as error:
            loop.count(error.code().name, started)


if __name__ == "__main__":
    main()
