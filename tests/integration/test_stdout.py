"""A stdout that nobody reads any more costs one line, not a traceback for each request."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from benchmarks.serving.load import infer_request
from protocol.open_inference_pb2_grpc import GRPCInferenceServiceStub
from testing import patient
from testing.images import coloured_pixels, encode
from testing.ports import free_port
from testing.server import ROOT, Server, wait_until_ready
from testing.waiting import HANG_S

IMAGE = encode(coloured_pixels(2))
PNG = {"Content-Type": "image/png"}
REQUESTS = 200


@pytest.mark.parametrize(
    "kind", ["closed pipe", pytest.param("full disk", marks=pytest.mark.exhaustive)]
)
def test_requests_are_answered_and_stderr_stays_short(
    kind: str, tiny_home: Path, tmp_path: Path
) -> None:
    if kind == "full disk" and not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    http_port, grpc_port = free_port(), free_port()
    variables = {
        "BENTOML_HOME": str(tiny_home),
        "BENTOML_DO_NOT_TRACK": "True",
        "VGG19_GRPC_PORT": str(grpc_port),
    }
    reader, writer = os.pipe()
    if kind == "full disk":
        os.close(writer)
        writer = os.open("/dev/full", os.O_WRONLY)
    command = [str(Path(sys.executable).with_name("bentoml")), "serve", "service:VGG19"]
    with (tmp_path / "stderr").open("wb") as stderr:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(http_port)],
            cwd=ROOT, env=os.environ | variables, stdout=writer, stderr=stderr,
        )  # fmt: skip
    os.close(writer)
    server = Server(process, http_port, grpc_port, tmp_path / "stderr")
    try:
        wait_until_ready(server)
        os.close(reader)
        before = server.log.stat().st_size
        with patient.client(base_url=server.url, headers=PNG) as client:
            for _ in range(REQUESTS):
                for content, status in ((IMAGE, 200), (b"x", 400)):
                    assert client.post("/classify", content=content).status_code == status
        with grpc.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
            infer = GRPCInferenceServiceStub(channel).ModelInfer
            assert all(infer(infer_request(IMAGE)).model_name for _ in range(REQUESTS))
        said = server.log.read_bytes()[before:].decode()
    finally:
        process.terminate()
        process.wait(HANG_S)
    assert said.count("the access log can't be written to stdout") == 1
    assert len(said.splitlines()) == 1, said
