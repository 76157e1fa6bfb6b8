"""What a PNG holds besides its pixels, taken out before a decoder reads it.

Pillow inflates every text and colour profile, and gives the whole image up for one of more than a
megabyte, which viewers open all the same. Nothing here looks at them: pixels are taken as they are
stored. So they are left out, but for the few texts that say which way up the image is.

The rest is counted: Pillow reads chunks one by one in Python, and 10 MB of empty ones took 2.5 s.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from models.errors import ImageError

# One for each kind would do, and a few texts; an animation has more of data, see below.
MAX_CHUNKS = 10_000
# With libpng's 8 kB in each, as many as 800 MB of compressed pixels have.
MAX_DATA_CHUNKS = 100_000
# Of a text that may say which way up the image is; Pillow's own limit for what is inflated.
MAX_TEXT_BYTES = 1_048_576

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_DATA = (b"IDAT", b"fdAT", b"fcTL")
_PROFILE, _COMPRESSED, _INTERNATIONAL = b"iCCP", b"zTXt", b"iTXt"
_TEXTS = (b"tEXt", _COMPRESSED, _INTERNATIONAL)
# The keywords in which Pillow looks for EXIF's orientation, beside the chunk eXIf.
_XMP, _EXIF = b"XML:com.adobe.xmp", (b"Raw profile type exif", b"exif")
_MAX_KEYWORD = 79


def lean_png(data: bytes) -> bytes:
    """A PNG without profiles and texts; what is no PNG, or has none, is given back as it is.

    Raises:
        ImageError: more than `MAX_CHUNKS` or `MAX_DATA_CHUNKS` chunks, or a text of more than
            `MAX_TEXT_BYTES` that may say which way up the image is (plain XMP may be longer).
    """
    if not data.startswith(_SIGNATURE):
        return data
    view, kept, begin = memoryview(data), [], 0
    counts = {True: 0, False: 0}
    for kind, start, end in _chunks(data):
        is_data = kind in _DATA
        counts[is_data] += 1
        if counts[is_data] > (MAX_DATA_CHUNKS if is_data else MAX_CHUNKS):
            raise ImageError(
                f"the PNG has more than {MAX_CHUNKS:,} chunks, or {MAX_DATA_CHUNKS:,} of pixels; "
                "save it again"
            )
        is_text = kind in _TEXTS
        if kind == _PROFILE or (is_text and not _is_needed(kind, data[start + 8 : end - 4])):
            kept.append(view[begin:start])
            begin = end
    return b"".join([*kept, view[begin:]]) if kept else data


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Of each the kind, and where it starts and ends: length, kind, content, checksum."""
    start = len(_SIGNATURE)
    while start + 8 <= len(data):
        kind = data[start + 4 : start + 8]
        end = start + 12 + int.from_bytes(data[start : start + 4])
        yield kind, start, end
        if kind == b"IEND":
            return
        start = end


def _is_needed(kind: bytes, content: bytes) -> bool:
    keyword = content[: _MAX_KEYWORD + 1].partition(b"\0")[0]
    if keyword != _XMP and keyword not in _EXIF:
        return False
    text, is_compressed = _text(kind, content[len(keyword) + 1 :])
    if is_compressed:
        text = _inflated(text)
    if len(text) > MAX_TEXT_BYTES and (is_compressed or keyword != _XMP):
        raise ImageError(
            f"the PNG's text '{keyword.decode('latin-1')}' has more than {MAX_TEXT_BYTES:,} bytes, "
            "the limit for one that may say which way up the image is; save it without metadata"
        )
    return keyword != _XMP or b"Orientation" in text


def _text(kind: bytes, content: bytes) -> tuple[bytes, bool]:
    """What is behind the keyword and, in an iTXt, its flags and languages; and whether it is
    compressed."""
    if kind == _INTERNATIONAL:
        return content[2:].split(b"\0", 2)[-1], content[:1] != b"\0"
    return (content[1:], True) if kind == _COMPRESSED else (content, False)


def _inflated(text: bytes) -> bytes:
    """Up to a byte more than the limit; b"" where it is damaged, which Pillow leaves out, too."""
    try:
        return zlib.decompressobj().decompress(text, MAX_TEXT_BYTES + 1)
    except zlib.error:
        return b""
