"""Images as text in JSON: base64 as any client writes it."""

from __future__ import annotations

import binascii
from base64 import b64decode

from pydantic_core import from_json

from serving.core.errors import BadRequest

# A whole number of groups of four. A piece at a time: decoding holds the GIL, and with it the event
# loop, for a millisecond and a half for each of these.
_PIECE = 1 << 20
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_BLANKS = b" \t\r\n"


def decode_image(text: memoryview, where: str) -> bytes:
    """The bytes of an image whose text is a JSON string, without its quotes.

    Line breaks, URL-safe letters (RFC 4648, section 5), missing padding and a `data:` URI are read.

    Raises:
        BadRequest: it is no base64. `where` names the image.
    """
    try:
        return _decoded(text)  # as nearly all are
    except (binascii.Error, ValueError):
        pass
    plain = bytes(text)
    try:
        if b"\\" in plain:  # PHP writes \/
            plain = str(from_json(b'"' + plain + b'"')).encode()
        if plain[:5].lower() == b"data:":
            plain = _data_of_uri(plain, where)
        letters = plain.translate(_URL_SAFE, _BLANKS)
        return _decoded(memoryview(letters.rstrip(b"=") + b"=" * (-len(letters.rstrip(b"=")) % 4)))
    except (binascii.Error, ValueError):
        raise BadRequest(
            f"{where} is no base64: send the bytes of an image file in base64 (RFC 4648)"
        ) from None


def _decoded(text: memoryview) -> bytes:
    if len(text) <= _PIECE:
        return b64decode(text, validate=True)
    pieces = (text[start : start + _PIECE] for start in range(0, len(text), _PIECE))
    return b"".join([b64decode(piece, validate=True) for piece in pieces])


def _data_of_uri(uri: bytes, where: str) -> bytes:
    head, comma, data = uri.partition(b",")
    if not comma or not head.lower().endswith(b";base64"):
        raise BadRequest(
            f"{where} is a data: URI without ';base64,'; send data:image/png;base64,... or the "
            "base64 alone"
        )
    return data
