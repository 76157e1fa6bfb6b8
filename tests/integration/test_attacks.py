"""A running service under requests that no client of good will sends."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import grpc
import httpx
import pytest

from benchmarks.serving.load import infer_request
from protocol.open_inference_pb2_grpc import GRPCInferenceServiceStub
from reliability.images import attack
from testing import patient
from testing.images import coloured_pixels, encode
from testing.server import Server
from testing.waiting import HANG_S

IMAGE = encode(coloured_pixels(3))
PNG = {"Content-Type": "image/png"}
INFER = "/v2/models/vgg19/infer"


@contextmanager
def listener() -> Iterator[tuple[str, list[object]]]:
    """A URL, and who has connected to it."""
    callers: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        ended = threading.Event()

        def accept() -> None:
            while not ended.is_set():
                with suppress(TimeoutError):
                    connection, address = server.accept()
                    connection.close()
                    callers.append(address)

        thread = threading.Thread(target=accept)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/image.png", callers
        ended.set()
        thread.join()


def check_good(server: Server) -> None:
    """In between, a good image is answered on both transports."""
    reply = patient.post(f"{server.url}/classify", content=IMAGE, headers=PNG)
    assert reply.status_code == 200, reply.text
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        GRPCInferenceServiceStub(channel).ModelInfer(infer_request(IMAGE), timeout=HANG_S)


def test_urls_are_never_fetched(server: Server) -> None:
    with listener() as (url, callers):
        tensor = {"name": "image", "datatype": "BYTES", "shape": [1]}
        encoded = base64.b64encode(url.encode()).decode()
        for path in ("/classify", INFER, "/feedback", "/classify/submit"):
            target = server.url + path
            patient.post(target, json={"image": url, "top_k": 1})
            patient.post(target, json={"inputs": [{**tensor, "data": [url]}]})
            patient.post(target, json={"inputs": [{**tensor, "data": [encoded]}]})
            patient.post(target, data={"image": url})
            patient.post(target, files={"image": (None, url)})
            patient.post(target, files={"image": ("image.png", url.encode(), "text/uri-list")})
            patient.post(target, params={"image": url}, content=IMAGE, headers=PNG)
            patient.post(target, content=url.encode(), headers=PNG)
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            with pytest.raises(grpc.RpcError) as refused:
                GRPCInferenceServiceStub(channel).ModelInfer(infer_request(url.encode()))
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert callers == []
        with pytest.raises(httpx.HTTPError):
            patient.get(url)
        while not callers:  # the listener does notice a caller
            time.sleep(0.01)
    check_good(server)


@pytest.mark.parametrize(
    "kind", ["application/vnd.bentoml+pickle", "application/octet-stream+pickle", "text/plain", ""]
)
def test_other_content_types_are_refused_unread(server: Server, kind: str) -> None:
    hostile = b"cos\nsystem\n(S'touch /tmp/vgg19-was-here'\ntR."
    headers = {"Content-Type": kind}
    described = patient.get(f"{server.url}/openapi.json").json()["paths"]
    of_bentoml = ("/schema.json", "/livez", "/readyz", "/metrics", "/static_content/x")
    paths = [path.replace("/versions/{version}", "").format(name="vgg19") for path in described]
    for path in (*paths, *of_bentoml, "/classify/submit", "/docs"):
        status = patient.post(server.url + path, content=hostile, headers=headers).status_code
        if path == INFER and not kind:
            assert status == 422  # taken for JSON, which it isn't
        elif path in ("/classify", INFER):
            assert status == 415
        else:  # feedback and the repository are switched off
            assert status in (404, 405), path
    with pytest.raises(httpx.TransportError):  # gRPC doesn't speak HTTP/1.1
        patient.post(f"http://127.0.0.1:{server.grpc_port}/", content=hostile, headers=headers)


@pytest.mark.parametrize("version", ["../../etc/passwd", "..", "%2e%2e%2f", "latest\0", "a" * 5000])
def test_no_path_of_a_client_reaches_the_file_system(server: Server, version: str) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        request = infer_request(IMAGE)
        request.model_version = version
        with pytest.raises(grpc.RpcError) as refused:
            GRPCInferenceServiceStub(channel).ModelInfer(request)
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    assert "passwd" not in patient.get(f"{server.url}/v2/models/vgg19").text
    for path in (f"/v2/models/vgg19/versions/{version[:50]}/infer", f"/static_content/{version}"):
        with suppress(httpx.InvalidURL):
            assert patient.post(server.url + path, content=b"{}").status_code in (404, 405, 422)


def test_a_hundred_thousand_parts_are_refused(server: Server) -> None:
    part = b'--b\r\nContent-Disposition: form-data; name="f"\r\n\r\nx\r\n'
    body = part * 100_000 + b"--b--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    reply = patient.post(f"{server.url}/classify", content=body, headers=headers)
    assert reply.status_code in (400, 413)
    check_good(server)


RAW_REQUESTS = {
    "no HTTP": b"\x16\x03\x01" + bytes(200),
    "a header flood": b"GET /model HTTP/1.1\r\nHost: x\r\n" + b"X-A: b\r\n" * 100_000 + b"\r\n",
    "a long header": b"GET /model HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 1_000_000 + b"\r\n\r\n",
    "a length that is none": b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n",
    "a negative length": b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    "two lengths": (
        b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
        b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "a length that lies": (
        b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
        b"Content-Length: 99999999999\r\n\r\nabc"
    ),
    "a bad host": b"GET /model HTTP/1.1\r\nHost: \xff\x00 evil\r\n\r\n",
}


@pytest.mark.parametrize("name", RAW_REQUESTS)
def test_what_is_hardly_http(server: Server, name: str) -> None:
    port = int(server.url.rsplit(":", 1)[1])
    with (
        socket.create_connection(("127.0.0.1", port), timeout=HANG_S) as connection,
        suppress(ConnectionError),
    ):
        connection.sendall(RAW_REQUESTS[name])
        answer = connection.recv(1000)
        assert not answer or answer.split()[1][:1] in (b"2", b"4"), answer
        assert b"Traceback" not in answer
    check_good(server)


def test_a_chunked_body_without_end_is_cut_off(server: Server) -> None:
    """At the limit of an image, 20 MB, however it is sent."""
    sent = 0

    def chunks() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(3_000):
            sent += 100_000
            yield bytes(100_000)

    with suppress(httpx.TransportError):  # it closes before all is written
        reply = patient.post(f"{server.url}/classify", content=chunks(), headers=PNG)
        assert reply.status_code == 413
    assert sent < 300_000_000
    check_good(server)


def test_grpc_messages_that_are_none(server: Server) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer", None, None)
        randomness = random.Random(0)
        for _ in range(200):
            with pytest.raises(grpc.RpcError) as refused:
                call(randomness.randbytes(randomness.randrange(1, 500)), timeout=HANG_S)
            assert refused.value.code() in (
                grpc.StatusCode.INVALID_ARGUMENT,
                grpc.StatusCode.NOT_FOUND,
            )
            assert not re.search("Traceback|Error|class", str(refused.value.details()))
    check_good(server)


def test_a_grpc_message_over_the_limit(server: Server) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        stub = GRPCInferenceServiceStub(channel)
        for size, code in (
            (64_000_001, grpc.StatusCode.RESOURCE_EXHAUSTED),  # unread
            (63_000_000, grpc.StatusCode.INVALID_ARGUMENT),  # an image over its own limit
        ):
            with pytest.raises(grpc.RpcError) as refused:
                stub.ModelInfer(infer_request(bytes(size)), timeout=HANG_S)
            assert refused.value.code() is code
    check_good(server)


def test_thousands_of_mutated_images_on_both_transports(server: Server) -> None:
    """As `python -m reliability.images` does, with fewer."""
    report = asyncio.run(attack(server, count=2_000, seed=1))
    assert report["broken"] == []
    assert report["sent"] == 2_000
    assert min(report["answered"], report["refused"]) > 300
    check_good(server)


def test_json_of_every_shape(server: Server) -> None:
    """Depth, size and types that a parser may stumble over."""
    deep = "[" * 100_000 + "]" * 100_000
    bodies = [
        deep, "{" * 50_000, "nul", "1e999999", "-" * 1000, json.dumps({"inputs": {}}),
        json.dumps({"inputs": [{"name": "image", "datatype": "BYTES", "shape": [10**30]}]}),
        json.dumps({"inputs": [{"name": "pixels", "datatype": "UINT8", "shape": [2**62] * 4}]}),
        json.dumps({"inputs": [{"name": "image", "datatype": "BYTES", "shape": [-1], "data": 5}]}),
    ]  # fmt: skip
    for body in bodies:
        reply = patient.post(server.url + INFER, content=body.encode())
        assert reply.status_code in (400, 413, 422), (body[:50], reply.status_code)
        assert "Traceback" not in reply.text
    check_good(server)
