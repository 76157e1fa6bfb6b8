from __future__ import annotations

import contextlib
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import BadRequest
from serving.open_inference import infer_response, model_metadata, read_images, requested_outputs
from serving.proto.open_inference_pb2 import InferTensorContents, ModelInferRequest

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
    assert read_images(request(*elements)) == elements
    assert read_images(ModelInferRequest(inputs=[tensor])) == elements


def test_a_trailing_dimension_of_one_is_fine() -> None:
    assert read_images(request(b"a", b"b", shape=[2, 1])) == [b"a", b"b"]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (ModelInferRequest(), "the inputs are none"),
        (request(b"a", name="data"), "the inputs are 'data'; there must be one, named 'image'"),
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
        read_images(bad)
    assert message in str(caught.value)


@pytest.mark.parametrize("data", [b"\x01", b"\x05\x00\x00\x00abc", b"\xff\xff\xff\xffabc"])
def test_raw_contents_that_end_early(data: bytes) -> None:
    bad = request(b"a")
    bad.raw_input_contents[0] = data
    with pytest.raises(BadRequest, match="raw contents end|is announced"):
        read_images(bad)


@given(st.binary(max_size=200))
def test_any_raw_bytes_give_images_or_bad_request(data: bytes) -> None:
    fuzzed = request(b"a")
    fuzzed.raw_input_contents[0] = data
    with contextlib.suppress(BadRequest):
        assert read_images(fuzzed) == [data[4:]]


def test_outputs_are_all_or_those_named() -> None:
    assert requested_outputs(request(b"a")) == ["probabilities", "label"]
    named = request(b"a")
    named.outputs.append(Output(name="label"))
    assert requested_outputs(named) == ["label"]
    named.outputs.append(Output(name="logits"))
    with pytest.raises(BadRequest, match="3 outputs are asked for, there are 2"):
        requested_outputs(ModelInferRequest(outputs=[Output(name="label")] * 3))
    with pytest.raises(BadRequest, match="there is no output 'logits'"):
        requested_outputs(named)


PROBABILITIES = np.array([[0.25, 0.75], [0.5, 0.5]], np.float32)


def test_raw_answer_to_a_raw_request() -> None:
    outputs = ["probabilities", "label"]
    response = infer_response(request(b"a", b"b"), "v1", outputs, PROBABILITIES, ["ß", "a"])
    assert (response.model_name, response.model_version, response.id) == ("vgg19", "v1", "42")
    assert [(o.name, o.datatype, list(o.shape)) for o in response.outputs] == [
        ("probabilities", "FP32", [2, 2]),
        ("label", "BYTES", [2]),
    ]
    numbers, labels = response.raw_output_contents
    assert np.frombuffer(numbers, "<f4").tolist() == [0.25, 0.75, 0.5, 0.5]
    assert labels == raw("ß".encode(), b"a")


def test_typed_answer_to_a_typed_request() -> None:
    contents = InferTensorContents(bytes_contents=[b"a", b"b"])
    typed = ModelInferRequest(
        inputs=[Input(name="image", datatype="BYTES", shape=[2], contents=contents)]
    )
    response = infer_response(typed, "v1", ["label", "probabilities"], PROBABILITIES, ["x", "y"])
    label, probabilities = response.outputs
    assert list(label.contents.bytes_contents) == [b"x", b"y"]
    assert list(probabilities.contents.fp32_contents) == [0.25, 0.75, 0.5, 0.5]
    assert not response.raw_output_contents


def test_metadata() -> None:
    metadata = model_metadata("vgg19", "v1", 7)
    assert [(t.name, t.datatype, list(t.shape)) for t in metadata.inputs] == [
        ("image", "BYTES", [-1])
    ]
    assert [(t.name, list(t.shape)) for t in metadata.outputs] == [
        ("probabilities", [-1, 7]),
        ("label", [-1]),
    ]
