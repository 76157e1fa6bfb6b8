"""Clients that nobody here wrote, against a real service with keys for its administrator."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from testing import patient
from testing.bundles import tiny_probabilities
from testing.images import COLOURS, coloured_pixels, encode
from testing.server import ROOT, Server, make_home, serve
from testing.waiting import HANG_S

COUNT = 5
PIXELS = np.stack([coloured_pixels(seed) for seed in range(COUNT)])
EXPECTED = tiny_probabilities(PIXELS)
LABELS = [COLOURS[i] for i in EXPECTED.argmax(axis=1)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("clients")
    settings = {"VGG19_ADMIN_KEY": hashlib.sha256(b"admin").hexdigest()}
    with serve(make_home(directory), directory / "log", **settings) as server:
        yield server


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    directory = tmp_path_factory.mktemp("images")
    files = [directory / f"{number:02}.png" for number in range(COUNT)]
    for file, pixels in zip(files, PIXELS, strict=True):
        file.write_bytes(encode(pixels))
    return files


@pytest.mark.parametrize("kind", ["grpc", "grpc-aio", "http", "http-aio"])
def test_tritons_client(server: Server, images: list[Path], kind: str) -> None:
    port = server.grpc_port if kind.startswith("grpc") else server.http_port
    address = f"127.0.0.1:{port}"
    check_tour(run_client("triton_tour", kind, address, "admin", *map(str, images)))


def check_tour(seen: dict[str, Any]) -> None:
    assert [seen[k] for k in ("live", "ready", "model_ready", "other_ready")] == [
        True, True, True, False,
    ]  # fmt: skip
    assert seen["server"]["name"] == "vgg19-finetune"
    assert [tensor["name"] for tensor in seen["metadata"]["inputs"]] == ["image", "pixels"]
    config = seen["config"].get("config", seen["config"])
    assert config["max_batch_size"] == 32
    for way in ("encoded", "decoded", "json", "gzip", "deflate"):
        if way in seen:
            np.testing.assert_allclose(seen[way]["probabilities"], EXPECTED, atol=1e-6)
            assert seen[way]["label"] == LABELS
    assert seen["encoded"]["id"] == "r1"
    assert [row[0].split(":")[2] for row in seen["classes"]] == LABELS
    assert {len(row) for row in seen["classes"]} == {2}
    assert "'vgg19' is, version" in seen["error"]
    (counted,) = seen["statistics"]["model_stats"]
    assert int(counted["inference_count"]) >= 3 * COUNT
    repository = seen["repository"]
    assert "needs a key" in repository["refused"]
    assert "only the current version" in repository["kept"]
    index = repository["index"]
    (entry,) = index["models"] if isinstance(index, dict) else index
    assert entry["state"] == "READY"
    if "stream" in seen:
        first, error, last = seen["stream"]
        assert (first, last) == ("0", "2")
        assert "'resnet'" in error


def run_client(script: str, *arguments: str) -> Any:
    """The JSON that a script beside this one prints."""
    command = [sys.executable, "-m", f"tests.integration.{script}", *arguments]
    result = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=HANG_S
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


class TestBentomlsClient:
    def test_sync_and_async(self, server: Server, images: list[Path]) -> None:
        answers = run_client("bentoml_client", server.url, str(images[1]))
        for way in ("sync", "async"):
            (image,) = answers[way]["images"]
            assert image["filename"] == "01.png"
            found = {p["label"]: p["probability"] for p in image["predictions"]}
            np.testing.assert_allclose([found[c] for c in COLOURS], EXPECTED[1], atol=1e-6)
        (image,) = answers["options"]["images"]
        assert [p["label"] for p in image["predictions"]] == [LABELS[1]]

    def test_a_url_is_not_fetched(self, server: Server) -> None:
        """What BentoML's own parser would do with such a request."""
        url, target = f"{server.url}/classify", {"image": "http://127.0.0.1:9/x"}
        assert patient.post(url, json=target).status_code == 415
        assert patient.post(url, files={"image": (None, target["image"])}).status_code == 422

    def test_a_pickle_is_not_read(self, server: Server) -> None:
        headers = {"Content-Type": "application/vnd.bentoml+pickle"}
        assert patient.post(f"{server.url}/classify", headers=headers).status_code == 415


def test_a_client_that_learns_the_interface_by_reflection(server: Server) -> None:
    """As grpcurl does: nothing of the protocol's code is used."""
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        method = pool.FindServiceByName("inference.GRPCInferenceService").FindMethodByName(
            "ModelInfer"
        )
        request_type, reply_type = map(GetMessageClass, (method.input_type, method.output_type))
        request: Any = request_type(model_name="vgg19")
        tensor = request.inputs.add(name="pixels", datatype="UINT8", shape=PIXELS.shape)
        tensor.contents.uint_contents.extend(PIXELS.ravel().tolist())
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=request_type.SerializeToString,
            response_deserializer=reply_type.FromString,
        )
        reply = call(request)
    assert [text.decode() for text in reply.outputs[1].contents.bytes_contents] == LABELS


def test_health_by_grpc(server: Server) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        reply = stub.Check(health_pb2.HealthCheckRequest())
    assert reply.status == health_pb2.HealthCheckResponse.SERVING


def test_metrics_and_the_log_of_a_request(server: Server, images: list[Path]) -> None:
    def answered() -> float:
        lines = patient.get(f"{server.url}/metrics").text.splitlines()
        (line,) = [one for one in lines if one.startswith('vgg19_images_total{outcome="answered"}')]
        return float(line.split()[-1])

    before = answered()
    headers = {"Content-Type": "image/png", "X-Request-Id": "look-for-me"}
    patient.post(f"{server.url}/classify", content=images[0].read_bytes(), headers=headers)
    lines = server.access_log(1, holding="look-for-me")
    assert [line["outcome"] for line in lines] == ["ok"]
    assert answered() == before + 1


def test_the_page_of_the_interface(server: Server) -> None:
    assert "swagger-ui" in patient.get(f"{server.url}/docs").text
    for name in ("static_content/swagger-ui-bundle.js", "openapi.json"):
        assert patient.get(f"{server.url}/{name}").status_code == 200
