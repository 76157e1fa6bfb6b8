from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from serving.core.errors import BadRequest
from serving.open_inference import pixel_text
from serving.open_inference.pixel_text import count_numbers, read_numbers


def read(text: str) -> list[int]:
    data = memoryview(text.encode())
    return [int(value) for value in read_numbers(data, count_numbers(data))]


@pytest.fixture
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a text of megabytes is."""
    monkeypatch.setattr(pixel_text, "_PIECE", 5)


PIXELS = np.arange(2 * 3 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3, 3) * 4


@pytest.mark.parametrize("values", [PIXELS, PIXELS.ravel(), PIXELS.reshape(2, 27)])
@pytest.mark.parametrize("indent", [None, 1])
def test_flat_or_nested(values: NDArray[np.uint8], indent: int | None) -> None:
    assert read(json.dumps(values.tolist(), indent=indent)) == PIXELS.ravel().tolist()


def test_every_value() -> None:
    assert read(json.dumps(list(range(256)))) == list(range(256))


BLANKS = st.sampled_from(["", " ", "\n\t", "\r\n  "])


@pytest.mark.usefixtures("_small_pieces")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.recursive(
        st.lists(st.integers(0, 255), min_size=1, max_size=9),
        lambda inner: st.lists(inner | st.integers(0, 255), min_size=1, max_size=4),
        max_leaves=8,
    ),
    BLANKS,
)
def test_any_list_is_read_as_json_reads_it(values: list[object], blank: str) -> None:
    """Wherever a piece ends."""
    text = json.dumps(values)
    flat = [int(word) for word in text.translate(str.maketrans("[],", "   ")).split()]
    for mark in "[],":
        text = text.replace(mark, blank + mark + blank)
    assume(text.count("[") <= 8)
    assert read(text) == flat


@pytest.mark.parametrize(
    "text",
    ["[256]", "[999]", "[1000]", "[-1]", "[+1]", "[1.0]", "[1e2]", "[01]", "[007]", "[00]",
     "[true]", '["1"]', "[null]", "[]", "[[],1]", "[1,]", "[,1]", "[1,,2]", "[1 2]", "[1]2",
     "[1][2]", "[1],[2]", "[1],2", "[,1 2]", "[1 2,]", "[1[,2]]", "1", "", "[1", "1]", "[[1]",
     "[1]]", "[[1][2]]", "[1[2]]", "[" * 9 + "1" + "]" * 9],
)  # fmt: skip
@pytest.mark.parametrize("pieces", ["whole", "small"])
def test_what_is_no_list_of_pixels(text: str, pieces: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if pieces == "small":
        monkeypatch.setattr(pixel_text, "_PIECE", 1)
    with pytest.raises(BadRequest, match=r"^the data of 'pixels' must be whole numbers, 0\.\.255,"):
        read(text)


def test_a_list_of_lists_eight_deep() -> None:
    assert read("[" * 8 + "7" + "]" * 8) == [7]


@pytest.mark.parametrize("count", [1, 3])
def test_another_count_than_was_told(count: int) -> None:
    with pytest.raises(BadRequest):
        read_numbers(memoryview(b"[1,2]"), count)


@pytest.mark.parametrize(("text", "count"), [(b"[]", 1), (b"[1,2]", 2), (b"[[1,2],[3]]", 3)])
def test_counts(text: bytes, count: int) -> None:
    assert count_numbers(memoryview(text)) == count
