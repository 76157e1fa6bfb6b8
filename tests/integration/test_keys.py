"""A running service with keys: they are nowhere to be read."""

from __future__ import annotations

import hashlib
from pathlib import Path

import grpc
import psutil

from benchmarks.serving.load import infer_request
from protocol.open_inference_pb2_grpc import GRPCInferenceServiceStub
from testing import patient
from testing.images import coloured_pixels, encode
from testing.server import serve

KEY, ADMIN, WRONG = "key-of-a-client-7f3a", "key-of-the-admin-91bc", "key-of-nobody-55d0"
IMAGE = encode(coloured_pixels(2))


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def test_no_key_in_logs_answers_arguments_or_environment(tiny_home: Path, tmp_path: Path) -> None:
    """Neither the keys nor, but for their environment, their whole digests."""
    settings = {"VGG19_API_KEYS": digest(KEY), "VGG19_ADMIN_KEY": digest(ADMIN)}
    said = []
    with serve(tiny_home, tmp_path / "log", **settings) as server:
        for key, expected in ((KEY, 200), (WRONG, 401), (ADMIN, 200)):
            headers = {"Authorization": f"Bearer {key}", "Content-Type": "image/png"}
            reply = patient.post(f"{server.url}/classify", content=IMAGE, headers=headers)
            assert reply.status_code == expected
            damaged = patient.post(f"{server.url}/classify", content=b"x", headers=headers)
            load = "/v2/repository/models/vgg19/load"
            refused = patient.post(server.url + load, content=b"{", headers=headers)
            said += [str(reply.headers) + reply.text, damaged.text, refused.text]
            with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
                infer = GRPCInferenceServiceStub(channel).ModelInfer
                metadata = (("authorization", f"Bearer {key}"),)
                try:
                    infer(infer_request(b"x"), metadata=metadata)
                except grpc.RpcError as error:
                    said.append(str(error))
        for path in ("/openapi.json", "/docs", "/metrics", "/schema.json", "/v2"):
            said.append(patient.get(server.url + path).text)
        processes = [psutil.Process(server.process.pid), *server.children()]
        arguments = [" ".join(process.cmdline()) for process in processes]
        environments = [str(process.environ()) for process in processes]
    log = (tmp_path / "log").read_text()
    assert digest(KEY)[:12] in log  # whose request it was
    for key in (KEY, ADMIN, WRONG):
        for text in (log, *said, *arguments, *environments):
            assert key not in text
        for text in (log, *said, *arguments):
            assert digest(key) not in text
