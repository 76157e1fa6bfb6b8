"""Images as text in JSON: base64 as any client writes it."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterator

from pydantic_core import from_json

from serving.core.errors import BadRequest

# A whole number of groups of four. A piece at a time: each call holds the GIL, and with it the
# event loop, for a few milliseconds of these.
_PIECE = 1 << 20
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_BLANKS = b" \t\r\n"
# As far as the closing quote, or as an escape that isn't whole.
_STRING = re.compile(rb'(?:[^"\\]++|\\(?:u[0-9a-fA-F]{4}|[^u]))*+')


def string_pieces(body: bytes, start: int, stop: int) -> Iterator[slice]:
    """The inside of a JSON string that begins there, up to its closing quote, `stop` or an escape
    that is none; no escape is cut in two."""
    while start < stop:
        match = _STRING.match(body, start, min(start + _PIECE, stop))
        assert match is not None, "it matches nothing as well"
        if match.end() == start:
            return
        yield slice(start, match.end())
        start = match.end()


def decode_image(body: bytes, start: int, stop: int, where: str) -> bytes:
    """The bytes of an image whose text is a JSON string, without its quotes.

    Line breaks, URL-safe letters (RFC 4648, section 5), missing padding and a `data:` URI are read.

    Raises:
        BadRequest: it is not base64. `where` names the image.
    """
    try:
        return _decoded(memoryview(body)[start:stop])  # as nearly all are
    except ValueError:
        pass
    try:
        return _decoded(memoryview(_letters(body, start, stop, where)))
    except ValueError:
        raise BadRequest(
            f"{where} is not base64: send the bytes of an image file in base64 (RFC 4648)"
        ) from None


def _decoded(text: memoryview) -> bytes:
    if len(text) <= _PIECE:
        return b64decode(text, validate=True)
    image = bytearray()
    for start in range(0, len(text), _PIECE):
        image += b64decode(text[start : start + _PIECE], validate=True)
    return bytes(image)


def _letters(body: bytes, start: int, stop: int, where: str) -> bytearray:
    """Those of the usual alphabet, padded."""
    letters = bytearray()
    for piece in string_pieces(body, start, stop):
        text = body[piece]
        if b"\\" in text:  # PHP writes \/, .NET \u002B
            text = from_json(b'"' + text + b'"').encode()
        if piece.start == start and text[:5].lower() == b"data:":
            text = _data_of_uri(text, where)
        letters += text.translate(_URL_SAFE, _BLANKS)
    letters = letters.rstrip(b"=")
    return letters + b"=" * (-len(letters) % 4)


def _data_of_uri(uri: bytes, where: str) -> bytes:
    head, comma, data = uri.partition(b",")
    if not comma or not head.lower().endswith(b";base64"):
        raise BadRequest(
            f"{where} is a data: URI without ';base64,'; send data:image/png;base64,... or the "
            "base64 alone"
        )
    return data
