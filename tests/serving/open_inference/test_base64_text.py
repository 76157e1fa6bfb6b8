from __future__ import annotations

import base64
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.core.errors import BadRequest
from serving.open_inference import base64_text
from serving.open_inference.base64_text import decode_image, string_pieces

IMAGE = b"\xfb\xff\xfe" + bytes(range(255)) + b"\xfb\xff"  # both / and + occur, and padding
PLAIN = base64.b64encode(IMAGE).decode()
URL_SAFE = base64.urlsafe_b64encode(IMAGE).decode()


@pytest.fixture
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a text of megabytes is."""
    monkeypatch.setattr(base64_text, "_PIECE", 8)


def decoded(text: str, *, inside: bool = False) -> bytes:
    """Of the inside of a JSON string that stands among other things; `inside`: it is written so."""
    written = text if inside else json.dumps(text)[1:-1]
    body = b'["' + written.encode() + b'"]'
    return decode_image(body, 2, len(body) - 2, "image 3")


WAYS = {
    "plain": PLAIN,
    "line breaks": base64.encodebytes(IMAGE).decode(),
    "Windows' line breaks": base64.encodebytes(IMAGE).decode().replace("\n", "\r\n"),
    "no padding": PLAIN.rstrip("="),
    "too much padding": PLAIN + "==",
    "URL-safe": URL_SAFE,
    "URL-safe without padding": URL_SAFE.rstrip("="),
    "both alphabets": PLAIN[:40] + URL_SAFE[40:],
    "data: URI": "data:image/png;base64," + PLAIN,
    "DATA: URI with a parameter": "DATA:image/png;name=a;BASE64," + PLAIN,
}


@pytest.mark.parametrize("text", WAYS.values(), ids=WAYS)
def test_ways_to_write_it(text: str) -> None:
    assert "/" in PLAIN
    assert "+" in PLAIN
    assert PLAIN.endswith("=")
    assert decoded(text) == IMAGE


@pytest.mark.usefixtures("_small_pieces")
@pytest.mark.parametrize("text", [t for t in WAYS.values() if t[:5].lower() != "data:"])
def test_ways_to_write_a_long_one(text: str) -> None:
    assert decoded(text) == IMAGE


@pytest.mark.parametrize(
    "written",
    [
        PLAIN.replace("/", r"\/"),  # PHP
        PLAIN.replace("+", r"\u002B"),  # .NET
        "".join(rf"\u{ord(letter):04x}" for letter in PLAIN),
    ],
)
def test_escapes_of_json(written: str) -> None:
    assert decoded(written, inside=True) == IMAGE


@pytest.mark.usefixtures("_small_pieces")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60), st.data())
def test_any_bytes_come_back(image: bytes, data: st.DataObject) -> None:
    """However the letters are escaped and broken into lines, wherever a piece ends."""
    letters = base64.b64encode(image).decode()
    styles = st.sampled_from(["{}", "{}\\n", "\\u{:04x}"])
    written = "".join(
        style.format(letter if "u" not in style else ord(letter))
        for letter in letters
        for style in [data.draw(styles)]
    )
    assert decoded(written, inside=True) == image


@pytest.mark.parametrize(
    "text", ["?", "abc!", PLAIN[:-3] + "=A==", "A", "aGk=aGk=", "ä", "data:;base64,?", "\\"]
)
def test_what_is_not_base64_is_named(text: str) -> None:
    with pytest.raises(BadRequest, match=r"^image 3 is not base64: send the bytes of an image"):
        decoded(text)


@pytest.mark.usefixtures("_small_pieces")
def test_a_data_uri_begins_with_the_text() -> None:
    with pytest.raises(BadRequest, match="^image 3 is not base64"):
        decoded("abcdefghdata:;base64,aGk=")


@pytest.mark.parametrize("text", ["data:image/png,abc", "data:image/png;base64", "data:;base64 ,A"])
def test_a_data_uri_without_base64(text: str) -> None:
    with pytest.raises(BadRequest, match=r"^image 3 is a data: URI without ';base64,'"):
        decoded(text)


def pieces(body: bytes) -> list[bytes]:
    return [body[piece] for piece in string_pieces(body, 0, len(body))]


@pytest.mark.usefixtures("_small_pieces")
def test_no_escape_is_cut_in_two() -> None:
    assert pieces(rb'abcdefg\nijkl\u00e9m"n') == [b"abcdefg", rb"\nijkl", rb"\u00e9m"]


@pytest.mark.parametrize(
    ("body", "read"),
    [(b'ab"cd', b"ab"), (rb"ab\u12", b"ab"), (rb"ab\u12xy", b"ab"), (b"ab\\", b"ab"), (b'"', b"")],
)
def test_a_string_ends_at_its_quote_or_at_an_escape_that_is_none(body: bytes, read: bytes) -> None:
    assert b"".join(pieces(body)) == read
