from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from protocol import open_inference_pb2 as pb
from protocol.open_inference_pb2_grpc import GRPCInferenceServiceStub
from serving.core import tensors
from serving.core.dataplane import DataPlane
from serving.core.requests import InferResponse, RequestedOutput
from serving.core.tensors import OutputTensor, Values
from serving.http.openapi import document
from testing.bundles import tiny_probabilities
from testing.images import coloured_pixels
from tests.serving.conftest import context_of, grpc_serving
from tests.serving.http.test_app import app_of

PIXELS = np.stack([coloured_pixels(seed) for seed in range(3)])
EXPECTED = np.sort(tiny_probabilities(PIXELS), axis=1)[:, :0:-1]  # the two largest


def _two_best(answer: InferResponse, _: RequestedOutput) -> Values:
    return np.ascontiguousarray(np.sort(answer.probabilities, axis=1)[:, :0:-1])


@pytest.fixture
def _made_up(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A tensor that there isn't, as one row."""
    row = OutputTensor("two_best", "FP32", _two_best, dims=lambda model: [2])
    monkeypatch.setattr(tensors, "TENSORS", (*tensors.TENSORS, row))
    document.cache_clear()
    yield
    document.cache_clear()


@pytest.mark.usefixtures("_made_up")
async def test_a_row_is_everywhere_over_http(classifier: DataPlane) -> None:
    tensor = {"name": "pixels", "datatype": "UINT8", "shape": list(PIXELS.shape)}
    binary = {"name": "two_best", "parameters": {"binary_data": True}}
    body: dict[str, Any] = {
        "inputs": [tensor | {"data": PIXELS.tolist()}],
        "outputs": [{"name": "two_best"}, binary],
    }
    transport = httpx.ASGITransport(app_of(classifier))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        metadata = (await client.get("/v2/models/vgg19")).json()
        config = (await client.get("/v2/models/vgg19/config")).json()
        schemas = (await client.get("/openapi.json")).json()["components"]["schemas"]
        reply = await client.post("/v2/models/vgg19/infer", json=body)
        body["outputs"] = [{"name": "logits"}]
        refused = await client.post("/v2/models/vgg19/infer", json=body)
    assert {"name": "two_best", "datatype": "FP32", "shape": [-1, 2]} in metadata["outputs"]
    assert {"name": "two_best", "data_type": "TYPE_FP32", "dims": [2]} in config["output"]
    for name in ("RequestedOutput", "OutputTensor"):
        assert "two_best" in schemas[name]["properties"]["name"]["enum"]
    length = int(reply.headers["inference-header-content-length"])
    in_json = json.loads(reply.content[:length])["outputs"][0]
    assert in_json["shape"] == [3, 2]
    for values in (in_json["data"], np.frombuffer(reply.content[length:], "<f4")):
        np.testing.assert_allclose(np.reshape(values, (3, 2)), EXPECTED, atol=1e-6)
    assert "heatmap, two_best" in refused.json()["detail"]


@pytest.mark.usefixtures("_made_up")
async def test_a_row_is_everywhere_over_grpc(classifier: DataPlane) -> None:
    asked = pb.ModelInferRequest(model_name="vgg19", raw_input_contents=[PIXELS.tobytes()])
    asked.inputs.add(name="pixels", datatype="UINT8", shape=PIXELS.shape)
    asked.outputs.add(name="two_best")
    async with (
        grpc_serving(context_of(classifier)) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        stub = GRPCInferenceServiceStub(channel)
        metadata = await stub.ModelMetadata(pb.ModelMetadataRequest(name="vgg19"))
        config = (await stub.ModelConfig(pb.ModelConfigRequest(name="vgg19"))).config
        reply = await stub.ModelInfer(asked)
    assert (metadata.outputs[-1].name, list(metadata.outputs[-1].shape)) == ("two_best", [-1, 2])
    assert (config.output[-1].name, list(config.output[-1].dims)) == ("two_best", [2])
    values = np.frombuffer(reply.raw_output_contents[0], "<f4").reshape(3, 2)
    np.testing.assert_allclose(values, EXPECTED, atol=1e-6)


def test_the_documentation_has_the_same_rows() -> None:
    text = Path("docs/api.md").read_text()
    row = r"^\| `(\w+)` \| [^|]*(?:input|output)[^|]* \| (\w+) \|"
    rows = dict(re.findall(row, text, re.MULTILINE))
    inputs = {tensor.name: tensor.datatype for tensor in tensors.INPUTS}
    assert rows == inputs | {tensor.name: tensor.datatype for tensor in tensors.TENSORS}
