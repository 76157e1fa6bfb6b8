from __future__ import annotations

import contextlib
import json
import struct
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.core.errors import BadImage, BadRequest, RequestError, TooLarge
from serving.core.explainer import ExplainRequest
from serving.core.requests import Deadline, InferRequest, InferResponse, RequestedOutput
from serving.core.statistics import Timings
from serving.engine.session import ModelOutput
from serving.open_inference import json_codec
from testing.bundles import tiny_spec
from tests.serving import v2_json
from tests.serving.conftest import LIMITS, StubModel, served
from tests.serving.v2_json import image_input

IMAGES = [b"one", b"", b"\xfb\xff\xfe"]
PIXELS = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
pixel_input = partial(v2_json.pixel_input, PIXELS)
RAW = b"".join(struct.pack("<I", len(image)) + image for image in IMAGES)


def binary_input(size: int, **tensor: Any) -> dict[str, Any]:
    del tensor["data"]
    return tensor | {"parameters": {"binary_data_size": size}}


def read(content: Any, behind: bytes | None = None, **more: Any) -> InferRequest:
    """behind: the binary contents; None: all of it is JSON."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    length = None if behind is None else len(body)
    return json_codec.read_request(body + (behind or b""), length, LIMITS, **more)


def test_images_of_json() -> None:
    asked = read({"inputs": [image_input(*IMAGES)]})
    assert list(asked.images) == IMAGES
    assert asked.pixels is None
    assert asked.all_or_nothing
    assert (asked.id, asked.version, asked.deadline, asked.explain) == ("", "", None, ())


@pytest.mark.parametrize("nested", [True, False])
def test_pixels_of_json(nested: bool) -> None:
    asked = read({"inputs": [pixel_input((PIXELS if nested else PIXELS.ravel()).tolist())]})
    assert asked.pixels is not None
    np.testing.assert_array_equal(asked.pixels, PIXELS)
    assert asked.pixels.dtype == np.uint8
    assert not asked.images


def test_binary_contents() -> None:
    images = read({"inputs": [binary_input(len(RAW), **image_input(*IMAGES))]}, RAW)
    assert list(images.images) == IMAGES
    raw = PIXELS.tobytes()
    pixels = read({"inputs": [binary_input(len(raw), **pixel_input())]}, raw).pixels
    assert pixels is not None
    np.testing.assert_array_equal(pixels, PIXELS)


async def test_what_is_around_the_input() -> None:
    deadline = Deadline.within(3)
    outputs = [
        {"name": "heatmap", "parameters": {"target": "red"}},
        {"name": "probabilities", "parameters": {"classification": 2, "binary_data": True}},
        {"name": "heatmap", "parameters": {"binary_data": None}},
    ]
    body = {"id": "r7", "inputs": [image_input(*IMAGES)], "outputs": outputs}
    asked = read(body, version="v2", deadline=deadline)
    assert (asked.id, asked.version, asked.deadline) == ("r7", "v2", deadline)
    assert asked.outputs == [
        RequestedOutput("heatmap", target="red"),
        RequestedOutput("probabilities", class_count=2, binary=True),
        RequestedOutput("heatmap"),
    ]
    assert asked.explain == (ExplainRequest("red"), ExplainRequest(""))


@pytest.mark.parametrize("binary", [True, False, None])
@pytest.mark.parametrize("outputs", [None, []])
def test_outputs_that_nobody_names(binary: bool | None, outputs: list[Any] | None) -> None:
    body = {
        "inputs": [image_input(*IMAGES)], "outputs": outputs,
        "parameters": {"binary_data_output": binary},
    }  # fmt: skip
    expected = [RequestedOutput(name, binary=bool(binary)) for name in ("probabilities", "label")]
    assert read(body).outputs == expected


def test_an_output_says_itself_whether_it_is_binary() -> None:
    outputs: list[dict[str, Any]] = [{"name": "label"} for _ in range(3)]
    outputs[1]["parameters"] = {"binary_data": False}
    outputs[2]["parameters"] = {}
    body = {"inputs": [image_input(b"")], "outputs": outputs}
    asked = read(body | {"parameters": {"binary_data_output": True}})
    assert [output.binary for output in asked.outputs] == [True, False, True]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 1_000, "not JSON"),
        (b"[]", "must be a JSON object"),
        (b"{}", "'inputs' is missing"),
        (b'{"id": 1, "inputs": []}', "'id' is 1, it must be a string"),
        (b'{"id": "\\ud800", "inputs": []}', "not JSON"),
        (b'{"inputs": []}', "the inputs are none"),
        (b'{"inputs": [1]}', "'inputs.0' is 1, it must be a JSON object"),
        ({"inputs": [image_input(b"x", shape="1")]}, "'inputs.0.shape' is 1, it must be a list"),
        ({"inputs": [image_input(b"x", shape=[True])]}, "is True, it must be a whole number"),
        ({"inputs": [image_input(b"x", shape=[2**70])]}, "must be a whole number below 2^63"),
        ({"inputs": [image_input(b"x", shape=[2])]}, "has shape [2] and 1 elements"),
        ({"inputs": [image_input(b"x", data=[])]}, "has shape [1] and 0 elements"),
        ({"inputs": [image_input(b"x", data=None)]}, "input 'image' has no 'data'; they must be"),
        ({"inputs": [image_input(data=["?"], shape=[1])]}, "the image is not base64"),
        ({"inputs": [image_input(data=["aGk=", "?"], shape=[2])]}, "image 1 is not base64"),
        ({"inputs": [image_input(data=[7], shape=[1])]}, "strings of base64"),
        ({"inputs": [image_input(data="x", shape=[1])]}, "'inputs.0.data' is x, it must be a list"),
        ({"inputs": [image_input(b"x", name="data")]}, "named 'image' or 'pixels'"),
        ({"inputs": [image_input(b"x", datatype="FP32")]}, "datatype 'FP32', it must be BYTES"),
        (
            {"inputs": [image_input(b"x", parameters=[])]},
            "parameters' is [], it must be a JSON object",
        ),
        (
            {"inputs": [image_input(b"x", parameters={"binary_data_size": 9})]},
            "announces 9 binary bytes, 0 are there",
        ),
        (
            {"inputs": [image_input(b"x", parameters={"binary_data_size": 0})]},
            "has data and binary_data_size; send one",
        ),
        (
            {"inputs": [image_input(b"x", parameters={"binary_data_size": -1})]},
            "binary_data_size' is -1, it must be a whole number, 0 or more",
        ),
        (
            {"inputs": [image_input(b"x", parameters={"shared_memory_region": "r"})]},
            "input 'image' is in shared memory, which this service doesn't read",
        ),
        ({"inputs": [pixel_input([1.5])]}, "whole numbers, 0..255"),
        ({"inputs": [pixel_input([256])]}, "whole numbers, 0..255"),
        ({"inputs": [pixel_input([[1], [1, 2]])]}, "and 3 values; the shape must be"),
        ({"inputs": [pixel_input(["x"])]}, "whole numbers, 0..255"),
        ({"inputs": [pixel_input([1, 2, 3])]}, "the shape must be [N, S, S, 3]"),
        ({"id": "x" * 1_025, "inputs": [image_input(b"x")]}, "the limit is 1,024; shorten it"),
        (
            {"inputs": [image_input(b"x")], "outputs": [{"name": "logits"}]},
            "there is no output 'logits'",
        ),
        (
            {"inputs": [image_input(b"x")], "outputs": [{"name": "label"}] * 17},
            "17 outputs are asked for, the limit is 16",
        ),
        (
            {
                "inputs": [image_input(b"x")],
                "outputs": [{"name": "probabilities", "parameters": {"classification": "x"}}],
            },
            "classification' is x, it must be a whole number",
        ),
    ],
)
def test_requests_that_are_not_as_described(body: Any, words: str) -> None:
    with pytest.raises(BadRequest) as caught:
        read(body)
    assert words in str(caught.value)


def test_binary_contents_that_are_not_as_announced() -> None:
    tensor = image_input(*IMAGES)
    for announced, words in (
        (len(RAW) + 1, f"announces {len(RAW) + 1} binary bytes, {len(RAW)} are there"),
        (len(RAW) - 1, "1 bytes are left behind the binary tensors"),
    ):
        with pytest.raises(BadRequest, match=words):
            read({"inputs": [binary_input(announced, **tensor)]}, RAW)
    with pytest.raises(BadRequest, match=f"^{len(RAW)} bytes are left behind"):
        read({"inputs": [tensor]}, RAW)


@pytest.mark.parametrize("length", [-1, 0, 3])
def test_lengths_of_the_header_that_cannot_be(length: int) -> None:
    with pytest.raises(BadRequest, match=f"the header is {length} bytes long, the body 2"):
        json_codec.read_request(b"{}", length, LIMITS)


def test_what_is_too_large() -> None:
    limit = LIMITS.max_image_bytes
    with pytest.raises(TooLarge, match=r"^image 1 is .* \(VGG19_MAX_IMAGE_BYTES\)"):
        read({"inputs": [image_input(b"x" * limit, b"x" * (limit + 1))]})
    with pytest.raises(TooLarge, match="9 or more images, the limit is 8"):
        read({"inputs": [image_input(*[b"x"] * 9)]})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(
            ["inputs", "outputs", "name", "shape", "data", "datatype", "parameters", "id",
             "binary_data_size", "classification", "image", "pixels"]
        ),
        inner,
        max_size=5,
    ),
    max_leaves=20,
)  # fmt: skip


@given(st.binary(max_size=200), st.none() | st.integers(-1, 300))
def test_any_bytes_are_a_request_or_a_bad_one(body: bytes, header_length: int | None) -> None:
    with pytest.raises(BadRequest):  # none of them happens to be one
        json_codec.read_request(body, header_length, LIMITS)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(JSON, st.binary(max_size=20))
def test_any_json_is_a_request_or_a_bad_one(content: Any, behind: bytes) -> None:
    header = json.dumps(content).encode()
    with contextlib.suppress(RequestError):
        json_codec.read_request(header + behind, len(header), LIMITS)


PROBABILITIES = np.array([[0.25, 0.75], [0.5, 0.5]], np.float32)


@pytest.fixture
def answer() -> InferResponse:
    spec = tiny_spec().model_copy(update={"labels": ("a", "ß")})
    rows: list[ModelOutput | RequestError] = [
        ModelOutput(row, distance) for row, distance in zip(PROBABILITIES, (0.5, 2), strict=True)
    ]
    return InferResponse(served("v1", StubModel(), spec), rows, Timings(0.0, 0.0, 0.0))


def written(answer: InferResponse, *outputs: RequestedOutput, id: str = "") -> tuple[Any, bytes]:  # noqa: A002
    body, length = json_codec.write_response(InferRequest(outputs=outputs, id=id), answer)
    assert (length is None) == (not any(output.binary for output in outputs))
    return json.loads(body[:length]), b"" if length is None else body[length:]


def test_an_answer_in_json(answer: InferResponse) -> None:
    names = ("probabilities", "label", "accepted", "distance")
    reply, rest = written(answer, *map(RequestedOutput, names), id="r7")
    assert rest == b""
    assert reply == {
        "model_name": "vgg19", "model_version": "v1", "id": "r7",
        "outputs": [
            {"name": "probabilities", "datatype": "FP32", "shape": [2, 2],
             "data": [0.25, 0.75, 0.5, 0.5]},
            {"name": "label", "datatype": "BYTES", "shape": [2], "data": ["ß", "a"]},
            {"name": "accepted", "datatype": "BOOL", "shape": [2], "data": [True, False]},
            {"name": "distance", "datatype": "FP32", "shape": [2], "data": [0.5, 2.0]},
        ],
    }  # fmt: skip


def test_an_answer_in_binary(answer: InferResponse) -> None:
    outputs = [
        RequestedOutput("label", binary=True),
        RequestedOutput("distance"),
        RequestedOutput("probabilities", binary=True),
    ]
    reply, rest = written(answer, *outputs)
    label, distance, probabilities = reply["outputs"]
    assert label["parameters"] == {"binary_data_size": 11}
    assert probabilities["parameters"] == {"binary_data_size": 16}
    assert ("data" in label, distance["data"], "id" in reply) == (False, [0.5, 2.0], False)
    labels = b"\2\0\0\0" + "ß".encode() + b"\1\0\0\0a"
    assert rest == labels + PROBABILITIES.astype("<f4").tobytes()


def test_classes_are_value_index_and_label(answer: InferResponse) -> None:
    reply, _ = written(answer, RequestedOutput("probabilities", class_count=1))
    assert reply["outputs"] == [
        {"name": "probabilities", "datatype": "BYTES", "shape": [2, 1],
         "data": ["0.750000:1:ß", "0.500000:0:a"]}
    ]  # fmt: skip


def test_a_long_answer_is_written_piece_by_piece(
    answer: InferResponse, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = [RequestedOutput(name) for name in ("probabilities", "label")]
    whole = written(answer, *outputs)
    for piece in (1, 3):
        monkeypatch.setattr(json_codec, "_PIECE", piece)
        assert written(answer, *outputs) == whole


def test_an_image_without_an_answer_fails_the_tensor(answer: InferResponse) -> None:
    answer.rows[1] = BadImage("image 1: no")
    with pytest.raises(BadImage, match="image 1: no"):
        written(answer, RequestedOutput("label"))
