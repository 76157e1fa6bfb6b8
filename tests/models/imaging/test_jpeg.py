from __future__ import annotations

import io
import struct

import pytest
from PIL import Image

from models.errors import ImageError
from models.imaging.jpeg import MAX_SCANS, MAX_SEGMENTS, _markers, check_jpeg, check_jpeg_head


def jpeg(picture: Image.Image, image_format: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, image_format, **options)
    return buffer.getvalue()


def segment(marker: int, body: bytes = b"") -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


EMPTY_SCAN = segment(0xDA, b"\1\1\0\1\x3f\0")


def test_photographs_pass(photos: list[Image.Image]) -> None:
    for options in ({}, {"progressive": True}, {"restart_marker_blocks": 1}):
        check_jpeg(jpeg(photos[0], quality=95, **options))
    check_jpeg(jpeg(photos[0], icc_profile=bytes(5_000_000)))  # 77 segments
    check_jpeg(jpeg(photos[0], "MPO", save_all=True, append_images=photos))


def test_what_is_no_jpeg_passes() -> None:
    for data in (b"", b"x", b"\xff\xd8", b"\xff\xd8\xff\xda", b"\x89PNG" + EMPTY_SCAN * 200):
        check_jpeg(data)


def test_scans_are_counted(photos: list[Image.Image]) -> None:
    data = jpeg(photos[0], progressive=True)
    own = list(_markers(data)).count(0xDA)
    assert own == 10  # libjpeg's own script
    room = MAX_SCANS - own
    check_jpeg(data[:-2] + EMPTY_SCAN * room + data[-2:])
    with pytest.raises(ImageError, match="more than 100 scans"):
        check_jpeg(data[:-2] + EMPTY_SCAN * (room + 1) + data[-2:])


def test_what_looks_like_a_scan_and_is_none_does_not_count(photos: list[Image.Image]) -> None:
    """In a thumbnail or behind the end: a phone's video, say."""
    data = jpeg(photos[0])
    check_jpeg(data[:2] + segment(0xE1, EMPTY_SCAN * 500) + data[2:] + EMPTY_SCAN * 500)


def test_segments_are_counted(photos: list[Image.Image]) -> None:
    data = jpeg(photos[0])
    piece = segment(0xE1, b"Exif\0\0 and so on")
    check_jpeg(data[:2] + piece * 900 + data[2:])
    with pytest.raises(ImageError, match="1,000 segments"):
        check_jpeg(data[:2] + piece * MAX_SEGMENTS + data[2:])
    with pytest.raises(ImageError, match="1,000 segments"):  # lengths of 0, which no segment has
        check_jpeg(data[:2] + b"\xff\xe1\0\0" * MAX_SEGMENTS + data[2:])


def test_the_head_ends_at_the_first_scan(photos: list[Image.Image]) -> None:
    data = jpeg(photos[0])
    piece = segment(0xE1, b"Exif\0\0 and so on")
    check_jpeg_head(data + EMPTY_SCAN * 200)
    check_jpeg_head(data[:-2] + piece * MAX_SEGMENTS + data[-2:])
    check_jpeg_head(b"\x89PNG" + piece * MAX_SEGMENTS)
    with pytest.raises(ImageError, match="1,000 segments"):
        check_jpeg_head(data[:2] + piece * MAX_SEGMENTS + data[2:])
