"""Images as strangers send them, made by script: the same seed gives the same bytes.

`samples` is what a service must know how to take or refuse: every format and mode that Pillow can
write, headers of those that it can only read, damaged files, decompression bombs, floods of small
parts, odd metadata, polyglots. `mutated_images` is damage by the thousand.
"""

from __future__ import annotations

import io
import random
import struct
import time
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image, ImageCms

Expected = Literal["image", "refused", "either"]
# What the service opens unless it is told otherwise.
SERVED = ("JPEG", "PNG", "WEBP")
OTHERS = ("GIF", "BMP", "TIFF")

# Of mutated images: damage to what is refused anyway shows little.
_SHARE_OF_SERVED = 0.7
_SIZE = (48, 40)
_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I;16", "I", "F")
_ORIENTATION = 0x0112
_DAWN = time.gmtime(0)
_OPTIONS = {"PDF": {"creationDate": _DAWN, "modDate": _DAWN}}
# Formats that Pillow reads, and doesn't write or (ICNS) writes slowly, by how their files begin.
_READ_ONLY = {
    "PSD": b"8BPS\0\1",
    "SUN": b"\x59\xa6\x6a\x95",
    "FLI": b"\0\0\0\0\x11\xaf",
    "XPM": b"/* XPM */\n",
    "CUR": b"\0\0\2\0\1\0",
    "DCX": b"\xb1\x68\xde\x3a",
    "FITS": b"SIMPLE  =                    T",
    "FTEX": b"FTEX",
    "GBR": b"\0\0\0\x1c\0\0\0\1",
    "MPEG": b"\0\0\1\xb3",
    "PIXAR": b"\x80\xe8\0\0",
    "FPX": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
    "PCD": b"PCD_IPI",
    "IPTC": b"\x1c\x01\x00\0\0",
    "XVTHUMB": b"P7 332\n",
    "WMF": b"\xd7\xcd\xc6\x9a\0\0",
    "GRIB": b"GRIB\0\0\0\1",
    "BUFR": b"BUFR",
    "HDF5": b"\x89HDF\r\n\x1a\n",
    "ICNS": b"icns\0\0\2\0ic07",
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
}


class Sample(NamedTuple):
    """`expected`: what a service that opens `SERVED` makes of the bytes."""

    name: str
    data: bytes
    expected: Expected


def samples(seed: int = 0) -> Iterator[Sample]:
    """All kinds of files, once each."""
    randomness = random.Random(seed)  # noqa: S311  # no secret
    picture = _picture(randomness)
    yield from _formats_and_modes(picture)
    yield from _turned(picture)
    yield from _animated(picture)
    yield from _metadata(picture)
    yield from _polyglots(picture)
    yield from _bombs(picture)
    yield from _floods(picture)
    yield from _nothing(picture, randomness)


def mutated_images(count: int, seed: int = 0) -> Iterator[Sample]:
    """Damaged ones of small files; what becomes of each is up to its decoder."""
    randomness = random.Random(seed)  # noqa: S311  # no secret
    small = [sample for sample in samples(seed) if 0 < len(sample.data) < 10_000]
    images = [sample for sample in small if sample.expected == "image"]
    for number in range(count):
        original = randomness.choice(images if randomness.random() < _SHARE_OF_SERVED else small)
        name = f"{number} {original.name}{randomness.choice(['', '.png', '.jpg', '.gif', '.exe'])}"
        yield Sample(name, mutate(original.data, randomness), "either")


def mutate(image: bytes, randomness: random.Random) -> bytes:
    """Cut off, with bits flipped, bytes overwritten, or a piece of it repeated."""
    data = bytearray(image)
    kind = randomness.randrange(4)
    if kind == 0:
        del data[randomness.randrange(len(data)) :]
    elif kind == 1:
        for _ in range(randomness.randrange(1, 20)):
            data[randomness.randrange(len(data))] ^= 1 << randomness.randrange(8)
    elif kind == 2:
        start = randomness.randrange(len(data))
        data[start : start + 8] = randomness.randbytes(8)
    else:
        start = randomness.randrange(len(data))
        data[start:start] = data[start : start + randomness.randrange(1, 400)]
    return bytes(data)


def _picture(randomness: random.Random) -> Image.Image:
    """Noise of few levels, so that files stay small, with a bright corner."""
    width, height = _SIZE
    noise = np.frombuffer(randomness.randbytes(width * height * 3), np.uint8) % 8 * 16
    picture = Image.fromarray(noise.reshape(height, width, 3))
    picture.paste((250, 220, 30), (0, 0, 16, 12))
    return picture


def _encoded(picture: Image.Image, image_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, image_format, **options)
    return buffer.getvalue()


def _formats_and_modes(picture: Image.Image) -> Iterator[Sample]:
    Image.init()
    for image_format in sorted(Image.SAVE.keys() - _READ_ONLY.keys()):
        for mode in _MODES:
            data = _written(picture, image_format, mode)
            if data is not None:
                yield Sample(f"{image_format} {mode}", data, _expected(image_format, mode))
    for name, magic in _READ_ONLY.items():
        yield Sample(f"{name} header", magic + bytes(600), "refused")
    yield Sample("JPEG progressive", _encoded(picture, "JPEG", progressive=True), "image")
    yield Sample("WEBP lossless", _encoded(picture, "WEBP", lossless=True), "image")
    transparent = _encoded(picture.convert("P"), "PNG", transparency=b"\0\x80" * 100)
    yield Sample("PNG palette with alpha", transparent, "image")


def _expected(image_format: str, mode: str) -> Expected:
    if image_format not in (*SERVED, "MPO"):  # to Pillow an MPO is a JPEG with more behind it
        return "refused"
    # Some encoders make 8 or 16 bits of 32; where they don't, there is no defined white.
    return "either" if mode in ("I", "F") else "image"


def _written(picture: Image.Image, image_format: str, mode: str) -> bytes | None:
    """None: the format doesn't hold such pixels, or a library for it isn't there."""
    try:
        if mode == "I;16":
            grey = np.asarray(picture.convert("L"), np.uint16) * 257
            return _encoded(Image.fromarray(grey), image_format)
        converted = picture.convert(mode)
        converted.info.clear()  # a profile with the time of day
        return _encoded(converted, image_format, **_OPTIONS.get(image_format, {}))
    except Exception:  # whatever two dozen encoders raise where they can't
        return None


def _turned(picture: Image.Image) -> Iterator[Sample]:
    for image_format in (*SERVED, "TIFF"):
        expected: Expected = "image" if image_format in SERVED else "refused"
        for orientation in range(10):  # 1 to 8 mean something
            exif = Image.Exif()
            exif[_ORIENTATION] = orientation
            data = _encoded(picture, image_format, exif=exif)
            yield Sample(f"{image_format} turned {orientation}", data, expected)


def _animated(picture: Image.Image) -> Iterator[Sample]:
    frames = [picture.rotate(10 * number) for number in range(1, 5)]
    for image_format in (*SERVED[1:], *OTHERS[:1], *OTHERS[2:], "MPO"):
        expected: Expected = "refused" if image_format in OTHERS else "image"
        data = _encoded(picture, image_format, save_all=True, append_images=frames)
        yield Sample(f"{image_format} animated", data, expected)


def _metadata(picture: Image.Image) -> Iterator[Sample]:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    srgb = srgb[:24] + bytes(12) + srgb[36:]  # without the time of day
    profiles = {"sRGB": srgb, "of noise": bytes(range(256)) * 9, "cut off": srgb[:100]}
    for image_format in SERVED:
        for name, profile in profiles.items():
            data = _encoded(picture, image_format, icc_profile=profile)
            yield Sample(f"{image_format} ICC {name}", data, "image")
    cmyk = _encoded(picture.convert("CMYK"), "JPEG", icc_profile=srgb)
    yield Sample("JPEG CMYK with an RGB profile", cmyk, "image")
    plain = _encoded(picture, "JPEG")
    miscounted = _segment(0xE2, b"ICC_PROFILE\0\x09\x02" + srgb)
    yield Sample("JPEG ICC part 9 of 2", plain[:2] + miscounted + plain[2:], "image")
    loop = b"II*\0" + struct.pack("<IHHHII", 8, 1, _ORIENTATION, 3, 1, 6) + struct.pack("<I", 8)
    for name, exif in {
        "of noise": b"noise" * 50,
        "that loops": loop,
        "of tags": _tag_bomb(),
    }.items():
        whole = plain[:2] + _segment(0xE1, b"Exif\0\0" + exif) + plain[2:]
        yield Sample(f"JPEG EXIF {name}", whole, "image")
        png = _encoded(picture, "PNG")
        yield Sample(f"PNG EXIF {name}", _behind_header(png, _chunk(b"eXIf", exif)), "image")


def _polyglots(picture: Image.Image) -> Iterator[Sample]:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(zipfile.ZipInfo("run.sh"), "touch /tmp/was-here")
    script = b"<script>alert(1)</script>"
    for image_format in SERVED:
        data = _encoded(picture, image_format)
        yield Sample(f"{image_format} and ZIP", data + archive.getvalue(), "image")
        yield Sample(f"{image_format} and HTML", data + script, "image")
        yield Sample(f"PDF around {image_format}", b"%PDF-1.4\n" + data + b"%%EOF", "refused")
    plain = _encoded(picture, "JPEG")
    yield Sample("JPEG with HTML", plain[:2] + _segment(0xFE, script) + plain[2:], "image")
    yield Sample("GIF and script", b"GIF89a=1;" + script, "refused")
    yield Sample("PostScript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "refused")


def _bombs(picture: Image.Image) -> Iterator[Sample]:
    """A few hundred bytes that declare up to 4 gigapixels."""
    for side in (60_000, 2**31 - 1):
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(99))), (b"IEND", b"")]
        data = b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks)
        yield Sample(f"PNG of {side} x {side}", data, "refused")
    sides = struct.pack(">HH", 65_000, 65_000)
    for name, options in {"": {}, " progressive": {"progressive": True}}.items():
        data = _resized(_encoded(picture, "JPEG", **options), sides)
        yield Sample(f"JPEG{name} of 65000 x 65000", data, "refused")
    mpo = _encoded(picture, "MPO", save_all=True, append_images=[picture])
    yield Sample("MPO of 65000 x 65000", _resized(mpo, sides), "refused")
    for width, height in ((16_384, 16_384), (65_000, 65_000)):
        yield Sample(f"WEBP of {width} x {height}", _webp_canvas(picture, width, height), "refused")
    strip = {273: 8, 278: 60_000, 279: 99}
    yield Sample("TIFF of 60000 x 60000", _tiff(60_000, 1, strip), "refused")
    tile = {322: 2**15, 323: 2**15, 324: 8, 325: 99}
    yield Sample("TIFF with a tile of 1 GB", _tiff(16, 8, tile), "refused")
    gif = _encoded(Image.new("P", (9, 9)), "GIF")
    yield Sample("GIF of 65535 x 65535", gif[:6] + b"\xff" * 4 + gif[10:], "refused")
    bmp = _encoded(Image.new("L", (9, 9)), "BMP")
    huge_bmp = bmp[:18] + struct.pack("<ii", 60_000, 60_000) + bmp[26:]
    yield Sample("BMP of 60000 x 60000", huge_bmp, "refused")


def _floods(picture: Image.Image) -> Iterator[Sample]:
    """Parts without end, within 1 MB."""
    jpeg, png = _encoded(picture, "JPEG", progressive=True), _encoded(picture, "PNG")
    empty_scan = _segment(0xDA, b"\1\1\0\1\x3f\0")
    yield Sample("JPEG of 10,000 scans", jpeg[:-2] + empty_scan * 10_000 + jpeg[-2:], "refused")
    pieces = _segment(0xE1, b"Exif\0\0" + b"x" * 10) * 20_000
    yield Sample("JPEG of 20,000 segments", jpeg[:2] + pieces + jpeg[2:], "refused")
    megabytes = zlib.compress(bytes(3_000_000))
    text = _chunk(b"zTXt", b"k\0\0" + megabytes)
    yield Sample("PNG with a text of 3 MB", _behind_header(png, text), "image")
    texts = _chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(1_000_000))) * 70
    yield Sample("PNG with texts of 70 MB", _behind_header(png, texts), "image")
    profile = _chunk(b"iCCP", b"k\0\0" + megabytes)
    yield Sample("PNG with a profile of 3 MB", _behind_header(png, profile), "image")
    yield Sample(
        "PNG of 20,000 chunks", _behind_header(png, _chunk(b"teSt", b"") * 20_000), "refused"
    )
    frame = b"\x21\xf9\4\0\2\0\0\0\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\2\2\x44\1\0"
    gif = _encoded(picture.convert("P"), "GIF")
    yield Sample("GIF of 5,000 frames", gif[:-1] + frame * 5_000 + b";", "refused")
    yield Sample("TIFF of tags", _tag_bomb(), "refused")
    loop = b"II*\0" + struct.pack("<IHI", 8, 0, 8)
    yield Sample("TIFF whose directories loop", loop, "refused")


def _nothing(picture: Image.Image, randomness: random.Random) -> Iterator[Sample]:
    yield Sample("nothing", b"", "refused")
    yield Sample("one byte", b"\xff", "refused")
    yield Sample("noise", randomness.randbytes(2_000), "refused")
    yield Sample("text", b"hello" * 100, "refused")
    for image_format in SERVED:
        data = _encoded(picture, image_format)
        yield Sample(f"{image_format} header alone", data[:12], "refused")
        yield Sample(f"{image_format} cut in half", data[: len(data) // 2], "refused")
        zeros = data[:40] + bytes(len(data) - 40)
        yield Sample(f"{image_format} of zeros", zeros, "either")


def _segment(marker: int, body: bytes) -> bytes:
    """Of a JPEG."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def _chunk(kind: bytes, body: bytes) -> bytes:
    """Of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _behind_header(png: bytes, chunks: bytes) -> bytes:
    return png[:33] + chunks + png[33:]


def _resized(jpeg: bytes, sides: bytes) -> bytes:
    """Another height and width in every frame's header."""
    own = struct.pack(">HH", *_SIZE[::-1])
    assert own in jpeg
    return jpeg.replace(own, sides)


def _webp_canvas(picture: Image.Image, width: int, height: int) -> bytes:
    """An animation of one small frame on a canvas of any size."""
    still = _encoded(picture, "WEBP", lossless=True)[12:]
    canvas = bytes([2, 0, 0, 0]) + _uint24(width - 1) + _uint24(height - 1)
    corner = _uint24(0) + _uint24(0) + _uint24(_SIZE[0] - 1) + _uint24(_SIZE[1] - 1)
    frame = corner + _uint24(100) + b"\0" + still
    chunks = [(b"VP8X", canvas), (b"ANIM", bytes(6)), (b"ANMF", frame)]
    body = b"WEBP" + b"".join(kind + struct.pack("<I", len(c)) + c for kind, c in chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _tiff(side: int, compression: int, tags: dict[int, int]) -> bytes:
    """A header and a directory of numbers, in grey."""
    common = {256: side, 257: side, 258: 8, 259: compression, 262: 1, 277: 1}
    entries = sorted({**common, **tags}.items())
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4)


def _uint24(value: int) -> bytes:
    return value.to_bytes(3, "little")


def _tag_bomb() -> bytes:
    """A TIFF directory of 2,500 tags that all claim the same 30,000 bytes."""
    tags = [struct.pack("<HHII", tag, 7, 30_000, 0) for tag in range(1, 2_501)]
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(tags) + bytes(4)
