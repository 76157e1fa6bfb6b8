from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import httpx
import numpy as np
import pytest

from serving.admission.api_keys import Keys
from serving.core.dataplane import DataPlane
from serving.engine.session import ModelOutput
from serving.open_inference.metadata import EXTENSIONS
from testing.bundles import tiny_heat_map, tiny_probabilities
from testing.images import coloured_pixels, encode
from tests.serving import v2_json
from tests.serving.conftest import ENGINES, STUB_CONFIDENCE, StubModel, stub_distance
from tests.serving.http.test_app import PICKLE, app_of, check_problem
from tests.serving.v2_json import image_input

PIXELS = np.stack([coloured_pixels(seed) for seed in range(3)])
pixel_input = partial(v2_json.pixel_input, PIXELS)
IMAGES = [encode(pixels) for pixels in PIXELS]
EXPECTED = tiny_probabilities(PIXELS)
INFER = "/v2/models/vgg19/infer"


@pytest.fixture
async def client(classifier: DataPlane) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app_of(classifier), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def test_server_health_and_metadata(client: httpx.AsyncClient) -> None:
    reply = (await client.get("/v2")).json()
    assert reply["name"] == "vgg19-finetune"
    assert reply["extensions"] == list(EXTENSIONS)
    assert (await client.get("/v2/health/live")).json() == {"live": True}
    assert (await client.get("/v2/health/ready")).status_code == 200
    model = (await client.get("/v2/models/vgg19/versions/v1")).json()
    assert model["versions"] == ["v1"]
    assert model["inputs"][1] == {"name": "pixels", "datatype": "UINT8", "shape": [-1, 32, 32, 3]}
    assert model["outputs"][0]["shape"] == [-1, 3]


@pytest.mark.parametrize(("provider", "platform", "backend"), ENGINES)
async def test_the_engine_is_named(
    client: httpx.AsyncClient,
    classifier: DataPlane,
    provider: str,
    platform: str,
    backend: str,
) -> None:
    classifier.models.current.provider = provider
    assert (await client.get("/v2/models/vgg19")).json()["platform"] == platform
    config = (await client.get("/v2/models/vgg19/config")).json()
    assert (config["platform"], config["backend"]) == (platform, backend)


async def test_a_service_that_hangs_is_not_live(classifier: DataPlane) -> None:
    transport = httpx.ASGITransport(app_of(classifier, is_alive=lambda: False))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        reply = await client.get("/v2/health/live")
    assert reply.status_code == 503
    assert reply.json() == {"live": False}


@pytest.mark.parametrize(
    ("path", "status"),
    [("vgg19", 200), ("vgg19/versions/v1", 200), ("vgg19/versions/v2", 503), ("resnet", 503)],
)
async def test_which_models_are_ready(client: httpx.AsyncClient, path: str, status: int) -> None:
    assert (await client.get(f"/v2/models/{path}/ready")).status_code == status


async def test_not_ready(classifier: DataPlane) -> None:
    app = app_of(classifier, is_ready=lambda: False)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        assert (await client.get("/v2/health/ready")).status_code == 503


@pytest.mark.parametrize("tensor", [image_input(*IMAGES), pixel_input()])
async def test_json_both_ways(client: httpx.AsyncClient, tensor: dict[str, Any]) -> None:
    response = await client.post(INFER, json={"id": "r7", "inputs": [tensor]})
    assert response.status_code == 200, response.text
    reply = response.json()
    assert (reply["model_name"], reply["model_version"], reply["id"]) == ("vgg19", "v1", "r7")
    probabilities, label = reply["outputs"]
    assert (probabilities["datatype"], probabilities["shape"]) == ("FP32", [3, 3])
    np.testing.assert_allclose(np.reshape(probabilities["data"], (3, 3)), EXPECTED, atol=1e-6)
    assert label["data"] == ["blue", "green", "red"]


async def test_pixels_may_be_flat(client: httpx.AsyncClient) -> None:
    body = {"inputs": [pixel_input(PIXELS.ravel().tolist())], "outputs": [{"name": "label"}]}
    reply = (await client.post(INFER, json=body)).json()
    assert [output["data"] for output in reply["outputs"]] == [["blue", "green", "red"]]
    assert "id" not in reply


async def test_binary_both_ways(client: httpx.AsyncClient) -> None:
    raw = b"".join(struct.pack("<I", len(image)) + image for image in IMAGES)
    tensor = image_input(*IMAGES, parameters={"binary_data_size": len(raw)})
    del tensor["data"]
    header = json.dumps(
        {
            "inputs": [tensor],
            "outputs": [
                {"name": "label"},
                {"name": "probabilities", "parameters": {"binary_data": True}},
            ],
        }
    ).encode()
    response = await client.post(
        INFER,
        content=header + raw,
        headers={"Inference-Header-Content-Length": str(len(header))},
    )
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/octet-stream"
    length = int(response.headers["inference-header-content-length"])
    label, probabilities = json.loads(response.content[:length])["outputs"]
    assert label["data"] == ["blue", "green", "red"]
    assert probabilities["parameters"] == {"binary_data_size": 36}
    numbers = np.frombuffer(response.content[length:], "<f4").reshape(3, 3)
    np.testing.assert_allclose(numbers, EXPECTED, atol=1e-6)


async def test_binary_by_default_and_classes(client: httpx.AsyncClient) -> None:
    body: dict[str, Any] = {
        "parameters": {"binary_data_output": True}, "inputs": [image_input(IMAGES[1])]
    }  # fmt: skip
    response = await client.post(INFER, json=body)
    length = int(response.headers["inference-header-content-length"])
    outputs = json.loads(response.content[:length])["outputs"]
    sizes = [output["parameters"]["binary_data_size"] for output in outputs]
    assert sizes == [12, 4 + len("green")]
    assert len(response.content) == length + sum(sizes)

    outputs = [{"name": "probabilities", "parameters": {"classification": 2}}]
    reply = (await client.post(INFER, json=body | {"parameters": {}, "outputs": outputs})).json()
    (classes,) = reply["outputs"]
    assert classes["shape"] == [1, 2]
    assert classes["data"][0] == f"{EXPECTED[1].max():f}:1:green"


async def test_versions(client: httpx.AsyncClient, classifier: DataPlane) -> None:
    await classifier.models.load("v2")
    path = "/v2/models/vgg19/versions/v2/infer"
    reply = (await client.post(path, json={"inputs": [image_input(IMAGES[0])]})).json()
    assert reply["model_version"] == "v2"
    missing = await client.post(
        "/v2/models/vgg19/versions/v3/infer", json={"inputs": [image_input(IMAGES[0])]}
    )
    check_problem(missing, 404, "version 'v3' is not served here")
    check_problem(await client.get("/v2/models/resnet"), 404, "model 'resnet'")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "not JSON"),
        ({"inputs": [pixel_input([1, 2, 3], shape=[1, 1, 1, 3])]}, "it must be [N, 32, 32, 3]"),
    ],
)
async def test_requests_that_are_not_as_described(
    client: httpx.AsyncClient, body: Any, words: str
) -> None:
    """Each way to be so is in `tests/serving/open_inference`."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    check_problem(await client.post(INFER, content=content, headers=headers), 422, words)


async def test_what_is_around_the_data_is_small(client: httpx.AsyncClient) -> None:
    headers = {"Content-Type": "application/json"}
    many = b'{"x": [' + b"[]," * 2_000
    response = await client.post(INFER, content=many, headers=headers)
    check_problem(response, 413, "more than 1,024 members without the 'data' of its inputs")
    long = json.dumps({"x" * 70_000: 1, "inputs": [image_input(IMAGES[0])]})
    response = await client.post(INFER, content=long, headers=headers)
    check_problem(response, 413, "more than 65,536 bytes without the 'data'")


async def test_a_bad_image_is_named(client: httpx.AsyncClient, model: StubModel) -> None:
    response = await client.post(INFER, json={"inputs": [image_input(IMAGES[0], b"no image")]})
    check_problem(response, 400, "image 1: not an image")


async def test_other_media_types_and_header_lengths(client: httpx.AsyncClient) -> None:
    response = await client.post(INFER, content=b"x", headers={"Content-Type": "image/png"})
    check_problem(response, 415, "send application/json")
    headers = {"Content-Type": PICKLE, "Inference-Header-Content-Length": "1"}
    check_problem(await client.post(INFER, content=b"x", headers=headers), 415, PICKLE)
    for length, words in (("x", "a number of bytes"), ("0", "0 bytes long"), ("9", "the body 2")):
        headers = {"Inference-Header-Content-Length": length}
        check_problem(await client.post(INFER, content=b"{}", headers=headers), 422, words)


async def test_bodies_over_the_limit(client: httpx.AsyncClient) -> None:
    response = await client.post(INFER, content=b" " * 100_001)
    check_problem(response, 413, "the limit is 100,000")


async def test_heat_maps(client: httpx.AsyncClient) -> None:
    outputs: list[dict[str, Any]] = [
        {"name": "heatmap", "parameters": {"target": "green"}},
        {"name": "probabilities"},
    ]
    body = {"inputs": [image_input(*IMAGES)], "outputs": outputs}
    maps, probabilities = (await client.post(INFER, json=body)).json()["outputs"]
    assert (maps["name"], maps["datatype"], maps["shape"]) == ("heatmap", "FP32", [3, 4, 4])
    expected = np.stack([tiny_heat_map(pixels, 1) for pixels in PIXELS])
    np.testing.assert_allclose(np.reshape(maps["data"], (3, 4, 4)), expected, atol=1e-6)
    np.testing.assert_allclose(np.reshape(probabilities["data"], (3, 3)), EXPECTED, atol=1e-6)


async def test_heat_maps_in_binary_of_the_most_probable(client: httpx.AsyncClient) -> None:
    outputs = [{"name": "heatmap", "parameters": {"binary_data": True}}]
    body = {"inputs": [pixel_input()], "outputs": outputs}
    response = await client.post(INFER, json=body)
    start = int(response.headers["Inference-Header-Content-Length"])
    maps = np.frombuffer(response.content[start:], "<f4").reshape(3, 4, 4)
    best = EXPECTED.argmax(axis=1)
    expected = np.stack([tiny_heat_map(p, int(i)) for p, i in zip(PIXELS, best, strict=True)])
    np.testing.assert_allclose(maps, expected, atol=1e-6)


async def test_heat_maps_are_no_default_output(client: httpx.AsyncClient) -> None:
    outputs = (await client.post(INFER, json={"inputs": [pixel_input()]})).json()["outputs"]
    assert [output["name"] for output in outputs] == ["probabilities", "label"]


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ({"name": "label", "parameters": {"target": "red"}}, "target is of 'heatmap', 'label' has"),
        ({"name": "heatmap", "parameters": {"target": "pink"}}, "target is 'pink', it must be one"),
        ({"name": "heatmap", "parameters": {"target": 3}}, "target' is 3, it must be a string"),
        ({"name": "heatmap", "parameters": {"classification": 1}}, "1 classes of 'heatmap' are"),
    ],
)
async def test_heat_maps_that_cannot_be(
    client: httpx.AsyncClient, output: dict[str, Any], said: str
) -> None:
    response = await client.post(INFER, json={"inputs": [pixel_input()], "outputs": [output]})
    check_problem(response, 422, said)


async def test_accepted_and_distance_in_json_and_binary(client: httpx.AsyncClient) -> None:
    outputs: list[dict[str, Any]] = [{"name": "accepted"}, {"name": "distance"}]
    distances = [stub_distance(pixels) for pixels in PIXELS]
    expected = [
        bool(row.max() >= STUB_CONFIDENCE and distance <= 1)
        for row, distance in zip(EXPECTED, distances, strict=True)
    ]
    body: dict[str, Any] = {"inputs": [pixel_input()], "outputs": outputs}
    accepted, distance = (await client.post(INFER, json=body)).json()["outputs"]
    assert (accepted["datatype"], accepted["shape"], accepted["data"]) == ("BOOL", [3], expected)
    assert distance["datatype"] == "FP32"
    assert distance["data"] == pytest.approx(distances)
    for output in outputs:
        output["parameters"] = {"binary_data": True}
    response = await client.post(INFER, json=body)
    start = int(response.headers["Inference-Header-Content-Length"])
    assert response.content[start : start + 3] == bytes(expected)
    assert np.frombuffer(response.content[start + 3 :], "<f4") == pytest.approx(distances)


async def test_a_model_without_distances(model: StubModel, classifier: DataPlane) -> None:
    current = classifier.models.current
    current.has_distance = False
    current.batcher._run = lambda images: [ModelOutput(row) for row in tiny_probabilities(PIXELS)]
    transport = httpx.ASGITransport(app_of(classifier))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        asked = {"inputs": [pixel_input()], "outputs": [{"name": "distance"}]}
        check_problem(await client.post(INFER, json=asked), 422, "version v1 has no 'distance'")
        outputs = (await client.get("/v2/models/vgg19")).json()["outputs"]
    names = [output["name"] for output in outputs]
    assert names == ["probabilities", "label", "accepted", "heatmap"]


async def test_null_is_absence(client: httpx.AsyncClient) -> None:
    tensor = image_input(IMAGES[0], parameters=None)
    body: dict[str, Any] = {"id": None, "parameters": None, "inputs": [tensor], "outputs": None}
    reply = (await client.post(INFER, json=body)).json()
    assert [output["name"] for output in reply["outputs"]] == ["probabilities", "label"]
    assert "id" not in reply
    nothing = dict.fromkeys(("binary_data", "classification", "target", "shared_memory_region"))
    body["outputs"] = [
        {"name": "heatmap", "parameters": nothing},
        {"name": "label", "parameters": None},
    ]
    body["parameters"] = {"binary_data_output": None}
    tensor["parameters"] = {"binary_data_size": None, "shared_memory_region": None}
    reply = (await client.post(INFER, json=body)).json()
    assert [output["name"] for output in reply["outputs"]] == ["heatmap", "label"]


async def test_base64_as_a_browser_writes_it(client: httpx.AsyncClient) -> None:
    """Other ways are in `tests/serving/open_inference/test_base64_text.py`."""
    uri = "data:image/png;base64," + base64.b64encode(IMAGES[1]).decode()
    body = {"inputs": [image_input(data=[uri], shape=[1])], "outputs": [{"name": "label"}]}
    reply = await client.post(INFER, json=body)
    assert reply.json()["outputs"][0]["data"] == ["green"]


async def test_shared_memory_is_refused(client: httpx.AsyncClient) -> None:
    region = {"shared_memory_region": "r", "shared_memory_byte_size": 9}
    tensor = image_input(IMAGES[0], parameters=region)
    del tensor["data"]
    said = "is in shared memory, which this service doesn't read or write"
    check_problem(await client.post(INFER, json={"inputs": [tensor]}), 422, f"input 'image' {said}")
    body = {
        "inputs": [image_input(IMAGES[0])],
        "outputs": [{"name": "label", "parameters": region}],
    }
    check_problem(await client.post(INFER, json=body), 422, f"output 'label' {said}")
    for path in ("systemsharedmemory/region/r/register", "cudasharedmemory/unregister"):
        reply = await client.post(f"/v2/{path}", json={})
        check_problem(reply, 404, "doesn't read or write shared memory")


async def test_heat_maps_of_several_labels(client: httpx.AsyncClient) -> None:
    """Each its own, one in JSON and one in binary."""
    outputs: list[dict[str, Any]] = [
        {"name": "heatmap", "parameters": {"target": "green"}},
        {"name": "heatmap", "parameters": {"target": "blue", "binary_data": True}},
    ]
    response = await client.post(INFER, json={"inputs": [pixel_input()], "outputs": outputs})
    start = int(response.headers["Inference-Header-Content-Length"])
    green, blue = json.loads(response.content[:start])["outputs"]
    assert blue["parameters"] == {"binary_data_size": 3 * 4 * 4 * 4}
    for values, index in (
        (green["data"], 1),
        (np.frombuffer(response.content[start:], "<f4"), 0),
    ):
        expected = np.stack([tiny_heat_map(pixels, index) for pixels in PIXELS])
        np.testing.assert_allclose(np.reshape(values, (3, 4, 4)), expected, atol=1e-6)


async def test_a_bad_image_ends_the_request_before_the_model_runs(
    client: httpx.AsyncClient, model: StubModel
) -> None:
    await client.post(INFER, json={"inputs": [image_input(IMAGES[0], b"no image")]})
    assert model.batches == []
    (counted,) = (await client.get("/v2/models/stats")).json()["model_stats"]
    assert counted["inference_stats"]["success"]["count"] == 0
    assert counted["inference_stats"]["fail"]["count"] == 1


async def test_null_is_absence_for_the_repository_too(classifier: DataPlane) -> None:
    secret = hashlib.sha256(b"admin").hexdigest()
    transport = httpx.ASGITransport(app_of(classifier, keys=Keys([], secret)))
    headers = {"Authorization": "Bearer admin"}
    async with httpx.AsyncClient(
        transport=transport, base_url="http://test", headers=headers
    ) as client:
        for path, body in (
            ("index", {"ready": None}),
            ("models/vgg19/load", {"parameters": None}),
            ("models/vgg19/load", {"parameters": {"version": None}}),
        ):
            reply = await client.post(f"/v2/repository/{path}", json=body)
            assert reply.status_code == 200, reply.text
