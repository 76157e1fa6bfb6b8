from __future__ import annotations

import contextlib
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.open_inference_pb2 import InferTensorContents, ModelInferRequest
from serving.core.errors import BadImage, BadRequest, RequestError
from serving.core.requests import InferResponse
from serving.core.statistics import Timings
from serving.engine.session import ModelOutput
from serving.open_inference.codec import (
    RequestedOutput,
    infer_response,
    read_input,
    requested_outputs,
)
from testing.bundles import tiny_spec
from tests.serving.conftest import StubModel, served

Input = ModelInferRequest.InferInputTensor
Output = ModelInferRequest.InferRequestedOutputTensor


def raw(*elements: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


def request(
    *elements: bytes, shape: list[int] | None = None, name: str = "image", datatype: str = "BYTES"
) -> ModelInferRequest:
    tensor = Input(name=name, datatype=datatype, shape=shape or [len(elements)])
    return ModelInferRequest(
        model_name="vgg19", id="42", inputs=[tensor], raw_input_contents=[raw(*elements)]
    )


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=5))
def test_raw_and_typed_contents_say_the_same(elements: list[bytes]) -> None:
    contents = InferTensorContents(bytes_contents=elements)
    tensor = Input(name="image", datatype="BYTES", shape=[len(elements)], contents=contents)
    assert read_input(request(*elements)) == elements
    assert read_input(ModelInferRequest(inputs=[tensor])) == elements


def test_a_trailing_dimension_of_one_is_fine() -> None:
    assert read_input(request(b"a", b"b", shape=[2, 1])) == [b"a", b"b"]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (ModelInferRequest(), "the inputs are none"),
        (request(b"a", name="data"), "the inputs are 'data'; there must be one, named 'image' or"),
        (request(b"a", datatype="FP32"), "has datatype 'FP32', it must be BYTES"),
        (request(b"a", shape=[2]), "has shape [2] and 1 elements"),
        (request(b"a", shape=[-1]), "has shape [-1]"),
        (request(b"a", b"b", shape=[-1, -2]), "has shape [-1, -2]"),
        (request(shape=[0]), "0 elements"),
        (request(b"a", shape=[1, 1, 1]), "has shape [1, 1, 1]"),
        (request(b"a", shape=[2**62] * 50_000), "has shape [4611686018427387904"),
        (
            ModelInferRequest(
                inputs=[Input(name="image", datatype="BYTES")], raw_input_contents=[raw(b"a")]
            ),
            "has shape []",
        ),
        (
            ModelInferRequest(inputs=[Input(name="image", datatype="BYTES", shape=[1])]),
            "0 elements",
        ),
    ],
)
def test_inputs_that_are_not_as_described(bad: ModelInferRequest, message: str) -> None:
    with pytest.raises(BadRequest) as caught:
        read_input(bad)
    assert message in str(caught.value)


@pytest.mark.parametrize("data", [b"\x01", b"\x05\x00\x00\x00abc", b"\xff\xff\xff\xffabc"])
def test_raw_contents_that_end_early(data: bytes) -> None:
    bad = request(b"a")
    bad.raw_input_contents[0] = data
    with pytest.raises(BadRequest, match="raw contents end|is announced"):
        read_input(bad)


@given(st.binary(max_size=200))
def test_any_raw_bytes_give_images_or_bad_request(data: bytes) -> None:
    fuzzed = request(b"a")
    fuzzed.raw_input_contents[0] = data
    with contextlib.suppress(BadRequest):
        assert read_input(fuzzed) == [data[4:]]


class TestPixels:
    VALUES = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)

    def request(self, shape: list[int], data: bytes, datatype: str = "UINT8") -> ModelInferRequest:
        tensor = Input(name="pixels", datatype=datatype, shape=shape)
        return ModelInferRequest(inputs=[tensor], raw_input_contents=[data])

    def test_raw_and_typed(self) -> None:
        whole = read_input(self.request([2, 4, 4, 3], self.VALUES.tobytes()))
        np.testing.assert_array_equal(whole, self.VALUES)
        contents = InferTensorContents(uint_contents=self.VALUES.ravel().tolist())
        tensor = Input(name="pixels", datatype="UINT8", shape=[2, 4, 4, 3], contents=contents)
        typed = read_input(ModelInferRequest(inputs=[tensor]))
        np.testing.assert_array_equal(typed, self.VALUES)

    @pytest.mark.parametrize(
        "shape",
        [[], [96], [2, 4, 12], [2, 4, 4, 4], [-2, 4, -4, 3], [0, 4, 4, 3], [2**62, 4, 4, 3],
         [2, 4, 4, 3, 1]],
    )  # fmt: skip
    def test_other_shapes(self, shape: list[int]) -> None:
        with pytest.raises(BadRequest, match="the shape must be"):
            read_input(self.request(shape, self.VALUES.tobytes()))

    def test_other_types_and_values(self) -> None:
        with pytest.raises(BadRequest, match="datatype 'FP32', not UINT8"):
            read_input(self.request([2, 4, 4, 3], self.VALUES.tobytes(), "FP32"))
        contents = InferTensorContents(uint_contents=[256, 0, 0])
        tensor = Input(name="pixels", datatype="UINT8", shape=[1, 1, 1, 3], contents=contents)
        with pytest.raises(BadRequest, match=r"holds 256, pixels are 0\.\.255"):
            read_input(ModelInferRequest(inputs=[tensor]))


def test_outputs_are_all_or_those_named() -> None:
    both = [RequestedOutput("probabilities"), RequestedOutput("label")]
    assert requested_outputs(request(b"a")) == both
    named = request(b"a")
    named.outputs.append(Output(name="label"))
    assert requested_outputs(named) == [RequestedOutput("label")]
    named.outputs.append(Output(name="logits"))
    with pytest.raises(BadRequest, match="6 outputs are asked for, there are 5"):
        requested_outputs(ModelInferRequest(outputs=[Output(name="label")] * 6))
    with pytest.raises(BadRequest, match="there is no output 'logits'"):
        requested_outputs(named)


@pytest.mark.parametrize(("name", "count"), [("label", 1), ("probabilities", 0)])
def test_classes_of_what_has_none(name: str, count: int) -> None:
    output = Output(name=name)
    output.parameters["classification"].int64_param = count
    with pytest.raises(BadRequest, match="there are 1 or more of 'probabilities'"):
        requested_outputs(ModelInferRequest(outputs=[output]))


PROBABILITIES = np.array([[0.25, 0.75], [0.5, 0.5]], np.float32)


@pytest.fixture
def answer() -> InferResponse:
    spec = tiny_spec().model_copy(update={"labels": ("a", "ß")})
    rows: list[ModelOutput | RequestError] = [ModelOutput(row) for row in PROBABILITIES]
    return InferResponse(served("v1", StubModel(), spec), rows, Timings(0.0, 0.0, 0.0))


BOTH = [RequestedOutput("probabilities"), RequestedOutput("label")]


def test_raw_answer_to_a_raw_request(answer: InferResponse) -> None:
    response = infer_response(request(b"a", b"b"), answer, BOTH)
    assert (response.model_name, response.model_version, response.id) == ("vgg19", "v1", "42")
    assert [(o.name, o.datatype, list(o.shape)) for o in response.outputs] == [
        ("probabilities", "FP32", [2, 2]),
        ("label", "BYTES", [2]),
    ]
    numbers, labels = response.raw_output_contents
    assert np.frombuffer(numbers, "<f4").tolist() == [0.25, 0.75, 0.5, 0.5]
    assert labels == raw("ß".encode(), b"a")


def test_typed_answer_to_a_typed_request(answer: InferResponse) -> None:
    contents = InferTensorContents(bytes_contents=[b"a", b"b"])
    typed = ModelInferRequest(
        inputs=[Input(name="image", datatype="BYTES", shape=[2], contents=contents)]
    )
    response = infer_response(typed, answer, BOTH[::-1])
    label, probabilities = response.outputs
    assert list(label.contents.bytes_contents) == ["ß".encode(), b"a"]
    assert list(probabilities.contents.fp32_contents) == [0.25, 0.75, 0.5, 0.5]
    assert not response.raw_output_contents


def test_classes_are_value_index_and_label(answer: InferResponse) -> None:
    response = infer_response(request(b"a", b"b"), answer, [RequestedOutput("probabilities", 9)])
    assert list(response.outputs[0].shape) == [2, 2]  # no more than there are
    assert response.raw_output_contents[0] == raw(
        "0.750000:1:ß".encode(), b"0.250000:0:a", b"0.500000:0:a", "0.500000:1:ß".encode()
    )


def test_an_image_without_an_answer_fails_the_tensor(answer: InferResponse) -> None:
    answer.rows[1] = BadImage("image 1: no")
    with pytest.raises(BadImage, match="image 1: no"):
        infer_response(request(b"a", b"b"), answer, BOTH)
