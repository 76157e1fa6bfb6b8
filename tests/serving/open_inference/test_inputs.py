from __future__ import annotations

import struct

import numpy as np
import pytest

from serving.core.errors import BadRequest, TooLarge
from serving.core.explainer import ExplainRequest
from serving.core.requests import RequestedOutput
from serving.open_inference import inputs
from tests.serving.conftest import LIMITS

MANY = LIMITS.max_request_images + 1


def raw(*elements: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


def test_an_id_may_have_1024_characters() -> None:
    for value in ("", "r7", "\N{SNOWMAN}" * 1024):
        assert inputs.check_id(value) == value
    with pytest.raises(BadRequest, match=r"the id has 1,025 characters, the limit is 1,024; short"):
        inputs.check_id("x" * 1025)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ([], "the inputs are none; there must be one, named 'image' or 'pixels'"),
        (["data"], "the inputs are 'data'; there"),
        (["x" * 60], f"the inputs are '{'x' * 50}'; there"),
        (["image", "image"], "the inputs are 'image', 'image'; there"),
        (["a", "b", "c", "d"], "'c', 'd'; there"),
        (["a", "b", "c", "d", "e"], "'c', 'd', ...; there"),
    ],
)
def test_inputs_by_other_names(names: list[str], told: str) -> None:
    with pytest.raises(BadRequest) as caught:
        inputs.check_names(names)
    assert told in str(caught.value)


def test_one_input_by_its_name_and_datatype() -> None:
    for name, datatype, other in (("image", "BYTES", "UINT8"), ("pixels", "UINT8", "BYTES")):
        inputs.check_names([name])
        inputs.check_datatype(name, datatype)
        with pytest.raises(BadRequest, match=f"has datatype '{other}', it must be {datatype}"):
            inputs.check_datatype(name, other)
    with pytest.raises(BadRequest, match=r"datatype 'x{20}', it must be BYTES: one encoded image"):
        inputs.check_datatype("image", "x" * 30)


@pytest.mark.parametrize(("count", "shape"), [(1, [1]), (3, [3]), (3, [3, 1])])
def test_shapes_of_images(count: int, shape: list[int]) -> None:
    inputs.check_image_shape(count, shape, LIMITS)


@pytest.mark.parametrize(
    ("count", "shape"),
    [
        (0, []),
        (0, [0]),
        (1, []),
        (1, [2]),
        (1, [-1]),
        (2, [1, 2]),
        (2, [2, 1, 1]),
        (1, [2**62] * 9),
    ],
)
def test_shapes_that_are_no_images(count: int, shape: list[int]) -> None:
    with pytest.raises(BadRequest) as caught:
        inputs.check_image_shape(count, shape, LIMITS)
    told = f"input 'image' has shape {shape[:8]} and {count} elements; the shape must be [N] with"
    assert str(caught.value).startswith(told)


@pytest.mark.parametrize(
    ("count", "shape"),
    [
        (0, [0, 32, 32, 3]), (12, [12]), (12, [1, 2, 2, 3, 1]), (12, [1, 2, 2, 4]),
        (12, [-1, -2, 2, 3]), (12, [2**62, 4, 4, 3]), (13, [1, 2, 2, 3]), (12, []),
    ],
)  # fmt: skip
def test_shapes_that_are_no_pixels(count: int, shape: list[int]) -> None:
    with pytest.raises(BadRequest) as caught:
        inputs.check_pixel_shape(count, shape, LIMITS)
    told = f"input 'pixels' has shape {shape[:5]} and {count} values; the shape must be [N, S, S, 3"
    assert str(caught.value).startswith(told)


def test_too_many_of_either() -> None:
    words = rf"the request has {MANY} images, the limit is 8 \(VGG19_MAX_REQUEST_IMAGES\)"
    with pytest.raises(TooLarge, match=words):
        inputs.check_image_shape(MANY, [MANY], LIMITS)
    with pytest.raises(TooLarge, match=words):
        inputs.check_pixel_shape(MANY * 12, [MANY, 2, 2, 3], LIMITS)
    # Counted up to the limit, whatever follows.
    with pytest.raises(TooLarge, match=rf"has {MANY} or more images"):
        inputs.raw_images(raw(*[b""] * 1000) + b"\xff", [1000], LIMITS)


def test_raw_pixels_are_over_the_same_memory() -> None:
    memory = bytearray(range(24))
    pixels = inputs.raw_pixels(memoryview(memory), [2, 2, 2, 3], LIMITS)
    np.testing.assert_array_equal(pixels, np.arange(24).reshape(2, 2, 2, 3))
    memory[0] = 77
    assert pixels[0, 0, 0, 0] == 77


def test_raw_images_are_copies() -> None:
    memory = bytearray(raw(b"one", b"", b"three"))
    images = inputs.raw_images(memoryview(memory), [3], LIMITS)
    memory[4] = 0
    assert images == [b"one", b"", b"three"]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"\1\0\0", "the raw contents end inside a length"),
        (raw(b"a") + b"\0", "the raw contents end inside a length"),
        (raw(b"a") + b"\5\0\0\0abc", "an element of 5 bytes is announced, 3 are there"),
        (b"\xff\xff\xff\xff", "an element of 4294967295 bytes is announced, 0 are there"),
    ],
)
def test_raw_images_that_end_early(data: bytes, told: str) -> None:
    with pytest.raises(BadRequest, match=f"^input 'image': {told}$"):
        inputs.raw_images(data, [1], LIMITS)


def test_a_large_image_is_named() -> None:
    limit = LIMITS.max_image_bytes
    inputs.check_sizes([limit, 0], LIMITS)
    with pytest.raises(TooLarge, match=r"^image 1 is 0.0 MB, the limit is 0.0 MB \(VGG19_MAX_IM"):
        inputs.check_sizes([limit, limit + 1], LIMITS)
    with pytest.raises(TooLarge, match="^image 0 is"):
        inputs.raw_images(raw(b"x" * (limit + 1)), [1], LIMITS)


def test_heat_maps_of_one_label_are_made_once() -> None:
    outputs = [
        RequestedOutput("heatmap", target="red"), RequestedOutput("label"),
        RequestedOutput("heatmap"), RequestedOutput("heatmap", target="red", binary=True),
    ]  # fmt: skip
    assert inputs.explained(outputs) == (ExplainRequest("red"), ExplainRequest(""))
    assert inputs.explained(outputs[1:2]) == ()


def test_shared_memory_says_what_is_in_it() -> None:
    assert str(inputs.refuse_shared_memory("input 'image'")).startswith(
        "input 'image' is in shared memory, which this service doesn't read or write; send"
    )
