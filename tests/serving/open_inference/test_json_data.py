from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core.errors import BadRequest, TooLarge
from serving.open_inference.json_data import MAX_HEADER_BYTES, Split, take_out_data

_MANY = 1_000


def split(body: bytes, max_strings: int = _MANY) -> Split:
    return take_out_data(body, len(body), max_strings)


def body_with(data: bytes, **around: Any) -> bytes:
    """A request whose input has these data."""
    tensor = json.dumps({"name": "image", "data": "HERE"} | around)
    return b'{"inputs": [' + tensor.encode().replace(b'"HERE"', data) + b"]}"


def put_back(found: Split, body: bytes) -> Any:
    """The whole that a parser would have made of a body."""
    header = json.loads(found.header)
    for tensor in header["inputs"]:
        (place,) = tensor["data"]
        data = found.data[place]
        tensor["data"] = json.loads(body[data.start : data.stop])
    return header


@pytest.mark.parametrize(
    "data",
    [b"[1,2]", b"[[[1],\n[2]], [[3],[4]]]", b'["aGk="]', b'[["aGk="], ["eA=="]]', b'[ "a" , "b" ]',
     b"[]", rb'["a\"]}", "\\"]', b'[["a","b"]]', "[\"é\"]".encode()],
)  # fmt: skip
def test_data_are_taken_out_and_can_be_put_back(data: bytes) -> None:
    body = body_with(data, shape=[1])
    found = split(body)
    assert json.loads(found.header)["inputs"][0] == {"name": "image", "data": [0], "shape": [1]}
    assert body[found.data[0].start : found.data[0].stop] == data
    assert put_back(found, body) == json.loads(body)


def test_where_strings_lie() -> None:
    body = body_with(rb'[["aGk="], ["x\"y"]]')
    (data,) = split(body).data
    assert data.strings is not None
    assert [body[start:stop] for start, stop in data.strings] == [b"aGk=", rb"x\"y"]
    assert split(body_with(b"[1, 2]")).data[0].strings is None


def test_each_input_has_its_place() -> None:
    tensor = '{"name": "%s", "data": %s}'
    body = '{"inputs": [%s, %s]}' % (tensor % ("a", '["x"]'), tensor % ("b", "[7]"))  # noqa: UP031
    found = split(body.encode())
    assert [t["data"] for t in json.loads(found.header)["inputs"]] == [[0], [1]]
    assert put_back(found, body.encode()) == json.loads(body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"data": [1], "inputs": []}',
        b'{"inputs": [{"parameters": {"data": [1]}}]}',
        b'{"inputs": [{"name": "data", "x": [1]}]}',
        b'{"inputs": [{"data": "x"}]}',
        b'{"inputs": [{"data": null}]}',
        rb'{"inputs": [{"\u0064ata": [1]}]}',
    ],
)
def test_other_data_stay(body: bytes) -> None:
    """Where they are small. Who parses the header finds that they are none."""
    found = split(body)
    assert (found.header, found.data) == (body, [])


def test_what_lies_behind_the_json_is_not_looked_at() -> None:
    body = body_with(b"[1]")
    assert take_out_data(body + b'"' * 100, len(body), _MANY) == split(body)


def test_limits_of_what_is_left() -> None:
    def padded(count: int) -> bytes:
        empty = b'{"id": "", "inputs": []}'
        return empty.replace(b'""', b'"' + b"x" * (count - len(empty)) + b'"')

    assert len(split(padded(MAX_HEADER_BYTES)).header) == MAX_HEADER_BYTES
    with pytest.raises(TooLarge, match=r"more than 65,536 bytes without the 'data' of its inputs"):
        split(padded(MAX_HEADER_BYTES + 1))
    split(b"[" + b"1," * 1_023)
    with pytest.raises(TooLarge, match=r"more than 1,024 members without the 'data'"):
        split(b"[" + b"1," * 1_024)
    # Data count towards neither.
    split(body_with(b"[" + b"1," * 100_000 + b"1]"))


def test_strings_are_counted_up_to_the_limit() -> None:
    three = body_with(b'["a","b","c"]')
    (data,) = split(three, max_strings=3).data
    assert data.strings is not None
    assert len(data.strings) == 3
    with pytest.raises(TooLarge, match="the request has 3 or more images, the limit is 2"):
        split(three, max_strings=2)


@pytest.mark.parametrize(
    "body",
    [b'{"id": "x', b'{"id": "x\\', b'{"inputs": [{"data": [1', b'{"inputs": [{"data": ["a',
     rb'{"id": "\u12"}'],
)  # fmt: skip
def test_what_has_no_end(body: bytes) -> None:
    with pytest.raises(BadRequest, match="the body is not JSON"):
        split(body)


@pytest.mark.parametrize("data", [b'["a" "b"]', b'["a", 1]', b'["a", {}]', b'["a"["b"]]'])
def test_strings_beside_what_is_none(data: bytes) -> None:
    with pytest.raises(BadRequest, match="must be strings of base64, one an image"):
        split(body_with(data))


NUMBERS = st.recursive(st.integers(0, 300), lambda x: st.lists(x, min_size=1, max_size=4))
DATA = st.lists(st.text(max_size=6), max_size=5) | st.lists(NUMBERS, max_size=5)
AROUND = st.dictionaries(
    st.sampled_from(["name", "shape", "x"]), st.text(max_size=8) | NUMBERS, max_size=3
)
INPUTS = st.lists(
    st.tuples(AROUND, DATA, AROUND).map(lambda t: t[0] | {"data": t[1]} | t[2]), max_size=3
)


@given(INPUTS, AROUND, st.booleans(), st.sampled_from([None, 1]))
def test_any_request_can_be_put_together_again(
    inputs: list[Any], around: dict[str, Any], as_ascii: bool, indent: int | None
) -> None:
    whole = around | {"inputs": inputs}
    body = json.dumps(whole, ensure_ascii=as_ascii, indent=indent).encode()
    assert put_back(split(body), body) == whole
