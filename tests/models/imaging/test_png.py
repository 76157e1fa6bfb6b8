"""PNGs, and images of other formats, with more beside their pixels than decoders like."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from models.errors import ImageError
from models.imaging.image import load_image
from models.imaging.png import MAX_CHUNKS, MAX_DATA_CHUNKS, MAX_TEXT_BYTES, lean_png
from models.imaging.preprocessing import Preprocessing

RULE = Preprocessing(image_size=32, resize_size=32)
PICTURE = Image.fromarray(np.random.default_rng(1).integers(0, 255, (32, 32, 3), np.uint8))
SIDEWAYS = Image.Exif()
SIDEWAYS[0x0112] = 6
XMP = b"XML:com.adobe.xmp"
LONG = bytes(range(1, 256)) * 20_000  # 5.1 MB


def encoded(image_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    PICTURE.save(buffer, image_format, **options)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    checksum = struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))
    return struct.pack(">I", len(content)) + kind + content + checksum


PNG = encoded()


def before(extra: bytes, data: bytes = PNG) -> bytes:
    """Between the head and the pixels."""
    return data[:33] + extra + data[33:]


def behind(extra: bytes, data: bytes = PNG) -> bytes:
    return data[:-12] + extra + data[-12:]


def text(content: bytes, keyword: bytes = b"Comment") -> bytes:
    return chunk(b"tEXt", keyword + b"\0" + content)


def packed_text(content: bytes, keyword: bytes = b"Comment") -> bytes:
    return chunk(b"zTXt", keyword + b"\0\0" + zlib.compress(content, 1))


def international(content: bytes, keyword: bytes = b"Comment") -> bytes:
    return chunk(b"iTXt", keyword + b"\0\0\0en\0Kommentar\0" + content)


def packed_international(content: bytes, keyword: bytes = b"Comment") -> bytes:
    return chunk(b"iTXt", keyword + b"\0\1\0\0\0" + zlib.compress(content, 1))


def profile(content: bytes) -> bytes:
    return chunk(b"iCCP", b"ICC\0\0" + zlib.compress(content, 1))


KINDS: dict[str, Callable[[bytes], bytes]] = {
    "tEXt": text,
    "zTXt": packed_text,
    "iTXt": international,
    "iTXt, packed": packed_international,
    "iCCP": profile,
    "XMP": lambda content: international(content, XMP),
    "XMP, many": lambda content: international(content[:1000], XMP) * 500,
    "eXIf": lambda content: chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\0\0\0\0\0" + content),
    "private": lambda content: chunk(b"prVt", content),
    "many": lambda content: text(content[:1000]) * 3000 + packed_text(content[:1000]) * 3000,
    "one of each": lambda content: text(content) + packed_text(content) + profile(content),
}
PLACES = {"before": before, "behind": behind}


def pixels(data: bytes) -> object:
    return load_image(data, RULE).tolist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("content", [b"", b"short", LONG, bytes(100_000_000)],
                         ids=["empty", "short", "5 MB", "100 MB of zeros"])  # fmt: skip
def test_the_pixels_are_those_of_the_plain_image(kind: str, place: str, content: bytes) -> None:
    if len(content) > len(LONG) and kind not in ("zTXt", "iTXt, packed", "iCCP"):
        content = content[:9_000_000]  # what isn't packed is as long as the file
    data = PLACES[place](KINDS[kind](content))
    tracemalloc.start()
    try:
        read = load_image(data, RULE)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert np.array_equal(read, np.asarray(PICTURE))
    assert peak < 4 * len(data) + 2_000_000


@pytest.mark.parametrize(
    "keyword",
    [b"transparency", b"exif", b"xmp", b"bbox", b"interlace", b"gamma", b"dpi", b"icc_profile"],
)
@pytest.mark.parametrize("kind", [text, packed_text, international, packed_international])
def test_texts_named_as_what_pillow_keeps_for_itself(
    keyword: bytes, kind: Callable[[bytes, bytes], bytes]
) -> None:
    for place in PLACES.values():
        assert pixels(place(kind(b"1", keyword))) == pixels(PNG)


@pytest.mark.parametrize(
    "damaged",
    [
        chunk(b"iCCP", b"ICC\0\1" + zlib.compress(b"x")),  # an unknown method
        chunk(b"iCCP", b"ICC\0"),
        chunk(b"iCCP", b"x" * 100),
        chunk(b"zTXt", b"Comment\0\0none"),
        chunk(b"zTXt", b"Comment\0\7"),
        chunk(b"iTXt", b""),
        chunk(b"tEXt", b""),
        text(b"one")[:-4] + bytes(4),  # a wrong checksum
        profile(b"one")[:-4] + bytes(4),
    ],
)
def test_damage_beside_the_pixels_is_none_of_ours(damaged: bytes) -> None:
    for place in PLACES.values():
        assert pixels(place(damaged)) == pixels(PNG)


def orientations() -> dict[str, bytes]:
    exif = SIDEWAYS.tobytes()
    lines = ["", "exif", f"{len(exif):8}", exif.hex()]
    hexadecimal = "\n".join(lines).encode()
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    return {
        "eXIf": encoded(exif=SIDEWAYS),
        "XMP": before(international(xmp, XMP)),
        "XMP, packed": before(packed_international(xmp, XMP)),
        "XMP, behind": behind(international(xmp, XMP)),
        "XMP of 5 megabytes": before(international(xmp + b" " * 5_000_000, XMP)),
        "profile": before(packed_text(hexadecimal, b"Raw profile type exif")),
        "profile, plain": before(text(hexadecimal, b"Raw profile type exif")),
    }


@pytest.mark.parametrize("kind", orientations())
@pytest.mark.parametrize("extra", [b"", packed_text(LONG), profile(LONG)], ids=len)
def test_what_says_which_way_up_it_is_counts(kind: str, extra: bytes) -> None:
    upright = np.asarray(PICTURE.transpose(Image.Transpose.ROTATE_270))
    assert np.array_equal(load_image(before(extra, orientations()[kind]), RULE), upright)


@pytest.mark.parametrize("kind", [text, packed_text, international, packed_international])
@pytest.mark.parametrize("keyword", [XMP, b"Raw profile type exif", b"exif"])
def test_too_long_a_text_that_may_say_it_is_refused_by_name(
    kind: Callable[[bytes, bytes], bytes], keyword: bytes
) -> None:
    for place in PLACES.values():
        pixels(place(kind(b" " * MAX_TEXT_BYTES, keyword)))
        if keyword == XMP and kind in (text, international):
            continue  # nothing is inflated: `orientations` has a longer one
        with pytest.raises(ImageError, match=r"has more than 1,048,576 bytes, the limit for one"):
            pixels(place(kind(b" " * (MAX_TEXT_BYTES + 1), keyword)))


def test_chunks_are_counted() -> None:
    own = 2  # IHDR and IEND
    for place in PLACES.values():
        for kind in (b"prVt", b"tEXt", b"tRNS", b"eXIf", b"iCCP", b"PRVT"):
            with pytest.raises(ImageError, match="more than 10,000 chunks, or 100,000 of pixels"):
                pixels(place(chunk(kind) * (MAX_CHUNKS - own + 1)))
        assert pixels(place(chunk(b"prVt") * (MAX_CHUNKS - own))) == pixels(PNG)
        for kind in (b"IDAT", b"fdAT", b"fcTL"):
            with pytest.raises(ImageError, match="100,000 of pixels"):
                pixels(place(chunk(kind) * MAX_DATA_CHUNKS))


def test_a_byte_in_each_chunk_is_fine() -> None:
    """As PngSuite's oi9n2c16 has it."""
    start, end = PNG.index(b"IDAT") + 4, len(PNG) - 16
    single = b"".join(chunk(b"IDAT", PNG[at : at + 1]) for at in range(start, end))
    assert pixels(PNG[: start - 8] + single + PNG[-12:]) == pixels(PNG)


def test_what_has_nothing_to_leave_out_is_not_copied() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_itxt(XMP, '<rdf:Description tiff:Orientation="1"/>')
    for data in (b"", b"x", PNG[:8], PNG[:20], PNG, encoded("JPEG"), encoded(pnginfo=info)):
        assert lean_png(data) is data


def with_segments(marker: int, begin: bytes) -> bytes:
    """A JPEG with 100 segments of 64 kB."""
    content = begin + bytes(65_533 - len(begin))
    segment = bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content
    return JPEG[:2] + segment * 100 + JPEG[2:]


JPEG = encoded("JPEG")
BEGINNINGS = {
    "EXIF": (0xE1, b"Exif\0\0MM\0*\0\0\0\x08"),
    "XMP": (0xE1, b"http://ns.adobe.com/xap/1.0/\0"),
    "ICC": (0xE2, b"ICC_PROFILE\0\1\1"),
    "MPF": (0xE2, b"MPF\0MM\0*\0\0\0\x08"),
    "Photoshop": (0xED, b"Photoshop 3.0\x008BIM\x04\x04\0\0\0\0\xff\xff"),
    "Adobe": (0xEE, b"none"),
    "comment": (0xFE, b""),
}


@pytest.mark.filterwarnings("ignore:Image appears to be a malformed MPO:UserWarning")
@pytest.mark.parametrize("kind", [*BEGINNINGS, *(f"WebP {k}" for k in ("exif", "xmp", "icc"))])
def test_other_formats_with_megabytes_beside_their_pixels(kind: str) -> None:
    if kind in BEGINNINGS:
        plain, data = JPEG, with_segments(*BEGINNINGS[kind])
    else:
        name = {"icc": "icc_profile"}.get(kind[5:], kind[5:])
        plain = encoded("WEBP", lossless=True)
        data = encoded("WEBP", lossless=True, **{name: b"Exif\0\0" * 1_000_000})
    tracemalloc.start()
    try:
        read = pixels(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert read == pixels(plain)
    assert peak < 8 * len(data)
