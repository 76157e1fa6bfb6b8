from __future__ import annotations

import json
from typing import Any

import pytest

from serving.core.errors import BadRequest
from serving.open_inference.json_header import Header, parse_header

INPUT = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [0]}


def parsed(**members: Any) -> Header:
    return parse_header(json.dumps({"inputs": [INPUT]} | members).encode())


def test_what_is_there() -> None:
    header = parsed(
        id="r7",
        inputs=[
            INPUT | {"shape": [2, 32, 32, 3], "data": [4]},
            INPUT | {"parameters": {"binary_data_size": 9}},
        ],
        outputs=[
            {"name": "heatmap", "parameters": {"target": "é", "binary_data": False}},
            {"name": "probabilities", "parameters": {"classification": -3}},
        ],
        parameters={"binary_data_output": True},
    )
    assert header.id == "r7"
    first, second = header.inputs
    assert (first.name, first.datatype, first.shape) == ("image", "BYTES", [2, 32, 32, 3])
    assert (first.data, first.parameters) == (4, None)
    assert second.parameters is not None
    assert second.parameters.binary_data_size == 9
    assert header.outputs is not None
    heat_map, probabilities = (output.parameters for output in header.outputs)
    assert heat_map is not None
    assert (heat_map.target, heat_map.binary_data, heat_map.classification) == ("é", False, None)
    assert probabilities is not None
    assert probabilities.classification == -3  # who asks for them says what is wrong
    assert header.parameters is not None
    assert header.parameters.binary_data_output is True


def test_null_and_absence_are_the_same() -> None:
    absent = parsed()
    assert parsed(id=None, outputs=None, parameters=None) == absent
    assert (absent.id, absent.outputs, absent.parameters) == (None, None, None)
    nothing = {"binary_data_size": None, "shared_memory_region": None}
    (tensor,) = parsed(inputs=[INPUT | {"data": None, "parameters": nothing}]).inputs
    assert tensor.data is None


def test_unknown_members_are_ignored() -> None:
    known = parsed()
    more = {"priority": 1, "x": [{}]}
    assert parsed(inputs=[INPUT | more], **more) == known


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ({"id": 1}, "'id' is 1, it must be a string"),
        ({"inputs": {}}, "'inputs' is {}, it must be a list"),
        ({"inputs": ["x" * 60]}, f"'inputs.0' is {'x' * 50}, it must be a JSON object"),
        ({"inputs": [INPUT | {"name": None}]}, "'inputs.0.name' is None, it must be a string"),
        ({"inputs": [{"name": "image"}]}, "'inputs.0.datatype' is missing"),
        ({"inputs": [INPUT | {"shape": [1.5]}]}, "'inputs.0.shape.0' is 1.5, it must be"),
        ({"inputs": [INPUT | {"shape": ["1"]}]}, "'inputs.0.shape.0' is 1, it must be a whole"),
        ({"inputs": [INPUT | {"shape": [-1]}]}, "is -1, it must be a whole number, 0 or more"),
        ({"inputs": [INPUT | {"shape": [2**63]}]}, "it must be a whole number below 2^63"),
        ({"inputs": [INPUT | {"shape": [1] * 9}]}, "it must be a list of a few whole numbers"),
        ({"outputs": [{"name": "label"}, {}]}, "'outputs.1.name' is missing"),
        (
            {"outputs": [{"name": "label", "parameters": {"binary_data": 1}}]},
            "'outputs.0.parameters.binary_data' is 1, it must be true or false",
        ),
        (
            {"outputs": [{"name": "label", "parameters": {"classification": True}}]},
            "'outputs.0.parameters.classification' is True, it must be a whole number",
        ),
        ({"parameters": 7}, "'parameters' is 7, it must be a JSON object"),
    ],
)
def test_a_member_of_another_type_is_named(members: dict[str, Any], told: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parsed(**members)
    assert told in str(caught.value)


@pytest.mark.parametrize("text", [b"", b"{", b'{"id": "\xff"}', b"{} {}"])
def test_no_json(text: bytes) -> None:
    with pytest.raises(BadRequest, match=r"^the body is not JSON \(or its header length is wrong"):
        parse_header(text)


@pytest.mark.parametrize("text", [b"[]", b"1", b'"x"', b"null"])
def test_no_object(text: bytes) -> None:
    with pytest.raises(BadRequest, match="^the body must be a JSON object$"):
        parse_header(text)
