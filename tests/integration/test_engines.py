"""A service on each engine of the processor: what runs is what it says that runs."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from benchmarks.serving.load import infer_request
from models.bundle.writer import write_manifest
from protocol import open_inference_pb2 as pb
from protocol.open_inference_pb2_grpc import GRPCInferenceServiceStub
from testing import patient
from testing.bundles import provenance
from testing.images import encode
from testing.server import put_into_production, serve
from testing.small_vgg import pixels
from tests.integration.small_export import export_small

pytest.importorskip("ncnn", reason="the extra cpu-fast is not installed")
pytest.importorskip("openvino", reason="the extra openvino is not installed")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In production: a model that has the variant ncnn."""
    bundle = export_small(tmp_path_factory.mktemp("engines"), "ncnn", others=30)
    write_manifest(bundle, provenance())
    return put_into_production(bundle)


@pytest.mark.parametrize(
    ("engine", "provider", "platform"),
    [
        ("onnxruntime", "CPUExecutionProvider", "onnxruntime_onnx"),
        pytest.param("ncnn", "ncnn", "ncnn", marks=pytest.mark.exhaustive),
        ("openvino", "OpenVINO", "openvino"),
    ],
)
def test_the_engine_that_runs_is_named(
    home: Path, tmp_path: Path, engine: str, provider: str, platform: str
) -> None:
    image = encode(pixels(1, 300)[0])
    with (
        serve(home, tmp_path / "log", VGG19_CPU_ENGINE=engine) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel,
        patient.client(base_url=server.url) as client,
    ):
        assert client.get("/model").json()["provider"] == provider
        assert client.get("/v2/models/vgg19").json()["platform"] == platform
        config = client.get("/v2/models/vgg19/config").json()
        assert (config["platform"], config["backend"]) == (platform, engine)

        stub = GRPCInferenceServiceStub(channel)
        assert stub.ModelMetadata(pb.ModelMetadataRequest(name="vgg19")).platform == platform
        told = stub.ModelConfig(pb.ModelConfigRequest(name="vgg19")).config
        assert (told.platform, told.backend) == (platform, engine)

        probabilities = stub.ModelInfer(infer_request(image)).outputs[0].contents.fp32_contents
        assert sum(probabilities) == pytest.approx(1)
