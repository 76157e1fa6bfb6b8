from __future__ import annotations

import contextlib
import struct
from collections.abc import Sequence

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from protocol.open_inference_pb2 import InferTensorContents, ModelInferRequest
from serving.core.errors import BadImage, BadRequest, RequestError
from serving.core.requests import InferRequest, InferResponse, RequestedOutput
from serving.core.statistics import Timings
from serving.engine.session import ModelOutput
from serving.open_inference.protobuf_codec import read_message, read_request, write_response
from serving.open_inference.wire import Malformed
from testing.bundles import tiny_spec
from tests.serving.conftest import LIMITS, StubModel, served

Input = ModelInferRequest.InferInputTensor
Output = ModelInferRequest.InferRequestedOutputTensor


def read(message: ModelInferRequest) -> InferRequest:
    return read_request(read_message(message.SerializeToString()), LIMITS)


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
    assert read(request(*elements)).images == elements
    assert read(ModelInferRequest(inputs=[tensor])).images == elements


def test_a_trailing_dimension_of_one_is_fine() -> None:
    assert read(request(b"a", b"b", shape=[2, 1])).images == [b"a", b"b"]


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
        read(bad)
    assert message in str(caught.value)


@pytest.mark.parametrize("data", [b"\x01", b"\x05\x00\x00\x00abc", b"\xff\xff\xff\xffabc"])
def test_raw_contents_that_end_early(data: bytes) -> None:
    bad = request(b"a")
    bad.raw_input_contents[0] = data
    with pytest.raises(BadRequest, match="raw contents end|is announced"):
        read(bad)


@given(st.binary(max_size=200))
def test_any_raw_bytes_give_images_or_bad_request(data: bytes) -> None:
    fuzzed = request(b"a")
    fuzzed.raw_input_contents[0] = data
    with contextlib.suppress(BadRequest):
        assert read(fuzzed).images == [data[4:]]


class TestPixels:
    VALUES = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)

    def request(self, shape: list[int], data: bytes, datatype: str = "UINT8") -> ModelInferRequest:
        tensor = Input(name="pixels", datatype=datatype, shape=shape)
        return ModelInferRequest(inputs=[tensor], raw_input_contents=[data])

    def test_raw_and_typed(self) -> None:
        whole = read(self.request([2, 4, 4, 3], self.VALUES.tobytes())).pixels
        np.testing.assert_array_equal(whole, self.VALUES)
        contents = InferTensorContents(uint_contents=self.VALUES.ravel().tolist())
        tensor = Input(name="pixels", datatype="UINT8", shape=[2, 4, 4, 3], contents=contents)
        typed = read(ModelInferRequest(inputs=[tensor])).pixels
        np.testing.assert_array_equal(typed, self.VALUES)

    @pytest.mark.parametrize(
        "shape",
        [[], [96], [2, 4, 12], [2, 4, 4, 4], [-2, 4, -4, 3], [0, 4, 4, 3], [2**62, 4, 4, 3],
         [2, 4, 4, 3, 1]],
    )  # fmt: skip
    def test_other_shapes(self, shape: list[int]) -> None:
        with pytest.raises(BadRequest, match="the shape must be"):
            read(self.request(shape, self.VALUES.tobytes()))

    def test_other_types_and_values(self) -> None:
        with pytest.raises(BadRequest, match="datatype 'FP32', it must be UINT8"):
            read(self.request([2, 4, 4, 3], self.VALUES.tobytes(), "FP32"))
        contents = InferTensorContents(uint_contents=[256, 0, 0])
        tensor = Input(name="pixels", datatype="UINT8", shape=[1, 1, 1, 3], contents=contents)
        with pytest.raises(BadRequest, match=r"holds a number above 255; pixels are 0\.\.255"):
            read(ModelInferRequest(inputs=[tensor]))


def test_outputs_are_the_usual_or_those_named() -> None:
    both = [RequestedOutput("probabilities", binary=True), RequestedOutput("label", binary=True)]
    assert read(request(b"a")).outputs == both
    named = request(b"a")
    named.outputs.append(Output(name="label"))
    assert read(named).outputs == [RequestedOutput("label", binary=True)]
    named.outputs.append(Output(name="logits"))
    with pytest.raises(BadRequest, match="there is no output 'logits'"):
        read(named)
    named.outputs.extend([Output(name="label")] * 15)
    with pytest.raises(BadRequest, match="17 outputs are asked for, the limit is 16"):
        read(named)


@pytest.mark.parametrize(("name", "count"), [("label", 1), ("probabilities", 0)])
def test_classes_of_what_has_none(name: str, count: int) -> None:
    output = Output(name=name)
    output.parameters["classification"].int64_param = count
    asked = request(b"a")
    asked.outputs.append(output)
    with pytest.raises(BadRequest, match="there are 1 or more of 'probabilities'"):
        read(asked)


PROBABILITIES = np.array([[0.25, 0.75], [0.5, 0.5]], np.float32)


@pytest.fixture
def answer() -> InferResponse:
    spec = tiny_spec().model_copy(update={"labels": ("a", "ß")})
    rows: list[ModelOutput | RequestError] = [ModelOutput(row) for row in PROBABILITIES]
    return InferResponse(served("v1", StubModel(), spec), rows, Timings(0.0, 0.0, 0.0))


def typed(*elements: bytes, outputs: Sequence[str] = ()) -> ModelInferRequest:
    contents = InferTensorContents(bytes_contents=elements)
    tensor = Input(name="image", datatype="BYTES", shape=[len(elements)], contents=contents)
    return ModelInferRequest(inputs=[tensor], outputs=[Output(name=name) for name in outputs])


def test_raw_answer_to_a_raw_request(answer: InferResponse) -> None:
    response = write_response(read(request(b"a", b"b")), answer)
    assert (response.model_name, response.model_version, response.id) == ("vgg19", "v1", "42")
    assert [(o.name, o.datatype, list(o.shape)) for o in response.outputs] == [
        ("probabilities", "FP32", [2, 2]),
        ("label", "BYTES", [2]),
    ]
    numbers, labels = response.raw_output_contents
    assert np.frombuffer(numbers, "<f4").tolist() == [0.25, 0.75, 0.5, 0.5]
    assert labels == raw("ß".encode(), b"a")


def test_typed_answer_to_a_typed_request(answer: InferResponse) -> None:
    asked = read(typed(b"a", b"b", outputs=["label", "probabilities"]))
    response = write_response(asked, answer)
    label, probabilities = response.outputs
    assert list(label.contents.bytes_contents) == ["ß".encode(), b"a"]
    assert list(probabilities.contents.fp32_contents) == [0.25, 0.75, 0.5, 0.5]
    assert not response.raw_output_contents


def test_classes_are_value_index_and_label(answer: InferResponse) -> None:
    asked = request(b"a", b"b")
    asked.outputs.add(name="probabilities").parameters["classification"].int64_param = 9
    response = write_response(read(asked), answer)
    assert list(response.outputs[0].shape) == [2, 2]  # no more than there are
    assert response.raw_output_contents[0] == raw(
        "0.750000:1:ß".encode(), b"0.250000:0:a", b"0.500000:0:a", "0.500000:1:ß".encode()
    )


def test_an_image_without_an_answer_fails_the_tensor(answer: InferResponse) -> None:
    answer.rows[1] = BadImage("image 1: no")
    with pytest.raises(BadImage, match="image 1: no"):
        write_response(read(request(b"a", b"b")), answer)


FIELDS = st.builds(
    ModelInferRequest,
    model_name=st.text(max_size=8),
    model_version=st.text(max_size=3),
    id=st.text(max_size=20),
    inputs=st.lists(
        st.builds(
            Input,
            name=st.sampled_from(["image", "pixels"]),
            datatype=st.sampled_from(["BYTES", "UINT8"]),
            shape=st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(1, 3), max_size=6),
            contents=st.builds(
                InferTensorContents,
                bytes_contents=st.lists(st.binary(max_size=200), max_size=4),
                uint_contents=st.lists(st.integers(0, 300), max_size=200),
            ),
        ),
        max_size=2,
    ),
    outputs=st.lists(st.builds(Output, name=st.sampled_from(["label", "distance"])), max_size=3),
)


@given(FIELDS, st.binary(max_size=8))
def test_a_message_is_read_as_protobuf_reads_it(message: ModelInferRequest, more: bytes) -> None:
    """Also with bytes behind it: what one of the two refuses, the other doesn't take."""
    data = message.SerializeToString() + more
    try:
        expected = ModelInferRequest.FromString(data)
    except DecodeError:
        with pytest.raises(BadRequest):
            read_request(read_message(data), LIMITS)
        return
    try:
        found = read_message(data)
    except Malformed:  # a group, which proto3 doesn't have and protobuf skips
        assert any(byte & 7 in (3, 4) for byte in more)
        return
    assert (found.model, found.version, found.id) == (
        expected.model_name, expected.model_version, expected.id,
    )  # fmt: skip
    assert (len(found.inputs), len(found.outputs)) == (len(expected.inputs), len(expected.outputs))
    with contextlib.suppress(RequestError):
        asked = read_request(found, LIMITS)
        (tensor,) = expected.inputs
        if asked.pixels is None:
            assert asked.images == list(tensor.contents.bytes_contents)
        else:
            assert asked.pixels.ravel().tolist() == list(tensor.contents.uint_contents)
        assert asked.count == tensor.shape[0]


@given(st.lists(st.integers(0, 255), min_size=1, max_size=600))
def test_packed_pixels(values: list[int]) -> None:
    contents = InferTensorContents(uint_contents=values)
    tensor = Input(name="pixels", datatype="UINT8", shape=[1, 1, 1, len(values)], contents=contents)
    pixels = read(ModelInferRequest(inputs=[tensor])).pixels
    assert pixels is not None
    assert pixels.ravel().tolist() == values


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_a_bad_one(data: bytes) -> None:
    with contextlib.suppress(RequestError):
        read_request(read_message(data), LIMITS)


@pytest.mark.parametrize("of", ["input", "output"])
def test_shared_memory_is_refused(of: str) -> None:
    asked = request(b"a")
    tensor = asked.inputs[0] if of == "input" else asked.outputs.add(name="label")
    tensor.parameters["shared_memory_region"].string_param = "region0"
    with pytest.raises(BadRequest, match=f"{of} '(image|label)' is in shared memory, which this"):
        read(asked)


def test_an_id_that_is_too_long() -> None:
    asked = request(b"a")
    asked.id = "\N{SNOWMAN}" * 1024
    assert read(asked).id == asked.id
    asked.id += "x"
    with pytest.raises(BadRequest, match="1,025 characters, the limit is 1,024"):
        read(asked)
