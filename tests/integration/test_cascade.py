"""A service whose int8 runs images again: over both transports its labels are float32's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from benchmarks.serving.load import infer_request
from models.bundle.bundle import open_bundle
from models.bundle.writer import write_manifest
from models.export.onnx_variants import Agreement, Form, Speed
from models.machine import sums_int8_exactly
from protocol.open_inference_pb2_grpc import GRPCInferenceServiceStub
from serving.engine.options import SessionOptions
from serving.engine.providers import CPU
from serving.engine.session import Session
from testing import patient
from testing.bundles import provenance
from testing.images import encode
from testing.server import put_into_production, serve
from testing.small_vgg import pixels
from tests.integration.small_export import export_small
from training.export import cascade, variants

pytestmark = pytest.mark.skipif(not sums_int8_exactly(), reason="this processor has no VNNI")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What export writes where int8 alone seems to change labels."""

    def speeds(forms: dict[str, Form], spec: Any) -> dict[str, Speed]:
        fast, slow = Speed(0.1, 0.25, 0.25), Speed(0.1, 1.0, 1.0)
        return {name: fast if name.startswith("int8") else slow for name in forms}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(variants, "compare", lambda a, b: Agreement(0.98, 0.3))
        patch.setattr(variants, "measure_speed", speeds)
        # The network is small, and int8 moves little: 0.03, within which no image lies.
        patch.setattr(cascade, "find_margin", lambda moved: 0.55)
        bundle = export_small(tmp_path_factory.mktemp("cascade"), "int8", others=200)
    write_manifest(bundle, provenance())
    return bundle


def test_labels_are_float32s_over_http_and_grpc(bundle: Path, tmp_path: Path) -> None:
    (int8,) = open_bundle(bundle).variants().variants
    assert int8.cascade is not None
    images = pixels(40, 1000)
    options = SessionOptions([(CPU, {})], None, 1, 8)
    session = Session(open_bundle(bundle), options)
    expected = [session.run([image])[0] for image in images]
    labels = open_bundle(bundle).spec.labels
    best = [labels[int(row.argmax())] for row in expected]
    gaps = [float(np.diff(np.sort(row)[-2:])[0]) for row in expected]
    assert min(gaps) < int8.cascade.margin < max(gaps)
    home = put_into_production(bundle)
    with (
        serve(home, tmp_path / "log", VGG19_PRECISION="int8") as server,
        grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel,
        patient.client(base_url=server.url) as client,
    ):
        told = client.get("/model").json()
        assert told["variant"] == "int8"
        assert told["rerun"] == {"precision": "float32", "margin": int8.cascade.margin}
        stub = GRPCInferenceServiceStub(channel)
        for image, label in zip(images, best, strict=True):
            found = client.post(
                "/classify", content=encode(image), headers={"Content-Type": "image/png"}
            )
            assert found.json()["images"][0]["predictions"][0]["label"] == label
            row = stub.ModelInfer(infer_request(encode(image))).outputs[0].contents.fp32_contents
            assert labels[int(np.argmax(row))] == label
        lines = client.get("/metrics").text.splitlines()
    counted = next(line for line in lines if line.startswith("vgg19_rerun_images_total"))
    assert 2 <= float(counted.rpartition(" ")[2]) < 80


def test_a_bundle_from_before_runs_int8_alone(bundle: Path, tmp_path: Path) -> None:
    path = bundle / "variants.json"
    record = json.loads(path.read_text())
    del record["variants"][0]["cascade"]
    path.write_text(json.dumps(record))
    write_manifest(bundle, provenance())
    home = put_into_production(bundle)
    with (
        serve(home, tmp_path / "log", VGG19_PRECISION="int8") as server,
        patient.client(base_url=server.url) as client,
    ):
        told = client.get("/model").json()
        assert (told["variant"], told["rerun"]) == ("int8", None)
