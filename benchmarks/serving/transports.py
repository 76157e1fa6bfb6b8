"""What HTTP and gRPC cost by themselves: servers that read an image, answer, and do nothing else.

    python -m benchmarks.serving.transports

uvicorn, grpc.aio and grpc's own threads take turns, with the load of `benchmarks.serving`; medians.
"""

from __future__ import annotations

import json
import multiprocessing
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import uvicorn
import uvloop

from benchmarks.report import medians, save
from benchmarks.serving.load import Load, check_tools, closed_loop, grpc_closed_loop, infer_request
from benchmarks.serving.running import GRPC_METHOD
from benchmarks.serving.workload import USUAL, photographs
from benchmarks.usage import Tree
from protocol import open_inference_pb2 as pb
from protocol.open_inference_pb2_grpc import (
    GRPCInferenceServiceServicer,
    add_GRPCInferenceServiceServicer_to_server,
)
from testing.ports import free_port

_CONNECTIONS, _SECONDS, _ROUNDS, _START_S = 64, 4.0, 5, 30
_CLASSES = 10
_BODY = json.dumps({"predictions": [{"label": str(n), "probability": 0.1} for n in range(5)]})


def main() -> None:
    check_tools()
    image = photographs()[USUAL]
    message = infer_request(image).SerializeToString()

    def http(port: int) -> Load:
        return closed_loop(f"http://127.0.0.1:{port}/", image, "image/jpeg", _CONNECTIONS, _SECONDS)

    def rpc(port: int) -> Load:
        return grpc_closed_loop(f"127.0.0.1:{port}", GRPC_METHOD, message, _CONNECTIONS, _SECONDS)

    transports = {"uvicorn": (serve_http, http), "grpc.aio": (serve_aio, rpc)}
    transports["grpc, 64 threads"] = (serve_threads, rpc)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in transports}
    for _ in range(_ROUNDS):
        for name, (serve, load) in transports.items():
            found[name].append(measure(serve, load))
    rows = medians(found)
    for name, row in rows.items():
        print(f"{name:16} " + "  ".join(f"{key} {value:.3f}" for key, value in row.items()))
    save("transports", {"transports": rows})


def measure(serve: Callable[[int], None], load: Callable[[int], Load]) -> dict[str, float]:
    """One server, alone on the machine with its load."""
    with _running(serve) as (port, tree):
        before = tree.cpu_seconds()
        seen = load(port)
        cpu_ms = 1e3 * (tree.cpu_seconds() - before) / seen.requests
    return {"requests/s": seen.requests / seen.seconds, "CPU ms/request": cpu_ms}


def serve_http(port: int) -> None:
    uvicorn.run(_application, host="127.0.0.1", port=port, log_level="critical")


async def _application(scope: Any, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(_BODY))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": _BODY.encode()})


def serve_aio(port: int) -> None:
    async def serve() -> None:
        server = grpc.aio.server()
        add_GRPCInferenceServiceServicer_to_server(_Asynchronous(), server)
        server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        await server.wait_for_termination()

    uvloop.run(serve())


def serve_threads(port: int) -> None:
    server = grpc.server(ThreadPoolExecutor(_CONNECTIONS))
    add_GRPCInferenceServiceServicer_to_server(_InThreads(), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


def _answer(request: pb.ModelInferRequest) -> pb.ModelInferResponse:
    response = pb.ModelInferResponse(model_name=request.model_name)
    output = response.outputs.add(name="probabilities", datatype="FP32", shape=[1, _CLASSES])
    output.contents.fp32_contents.extend([1 / _CLASSES] * _CLASSES)
    return response


class _Asynchronous(GRPCInferenceServiceServicer):
    async def ModelInfer(  # noqa: N802
        self, request: pb.ModelInferRequest, context: Any
    ) -> pb.ModelInferResponse:
        return _answer(request)


class _InThreads(GRPCInferenceServiceServicer):
    def ModelInfer(  # noqa: N802
        self, request: pb.ModelInferRequest, context: Any
    ) -> pb.ModelInferResponse:
        return _answer(request)


@contextmanager
def _running(serve: Callable[[int], None]) -> Iterator[tuple[int, Tree]]:
    port = free_port()
    # gRPC must not be forked once it has been used.
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(port,))
    process.start()
    assert process.pid is not None
    try:
        deadline = time.monotonic() + _START_S
        while not _listens(port):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{serve.__name__} doesn't listen after {_START_S} s")
            time.sleep(0.05)
        yield port, Tree(process.pid)
    finally:
        process.kill()
        process.join()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


if __name__ == "__main__":
    main()
