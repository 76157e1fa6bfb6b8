from __future__ import annotations

import io
import struct
from typing import Any

import pytest
from PIL import Image

from models.errors import ImageError
from models.imaging.jpeg import MAX_SCANS, MAX_SEGMENTS, _segments, check_jpeg, check_jpeg_head


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
    own = [marker for marker, _ in _segments(data)].count(0xDA)
    assert own == 10  # libjpeg's own script
    room = MAX_SCANS - own
    check_jpeg(data[:-2] + EMPTY_SCAN * room + data[-2:])
    with pytest.raises(ImageError, match="more than 100 scans"):
        check_jpeg(data[:-2] + EMPTY_SCAN * (room + 1) + data[-2:])


@pytest.mark.parametrize(
    ("mode", "options"),
    [("L", {}), ("RGB", {}), ("CMYK", {}), ("RGB", {"subsampling": 0, "restart_marker_blocks": 1})],
)
def test_a_sequential_jpeg_of_one_scan_can_have_no_other(
    photos: list[Image.Image], mode: str, options: dict[str, Any]
) -> None:
    """So it is not searched for them: libjpeg gives it up at the second one."""
    data = jpeg(photos[0].convert(mode), **options)
    more = data[:-2] + EMPTY_SCAN * 5000 + data[-2:]
    check_jpeg(more)
    for broken in (more, data[:-2] + EMPTY_SCAN + data[-2:]):
        with Image.open(io.BytesIO(broken)) as image, pytest.raises(OSError, match="broken"):
            image.load()


@pytest.mark.parametrize("frame", [0xC2, 0xC3, 0xC5, 0xC6, 0xC9, 0xCA])
def test_scans_of_other_frames_are_counted(photos: list[Image.Image], frame: int) -> None:
    data = jpeg(photos[0], quality=30).replace(b"\xff\xc0", bytes([0xFF, frame]), 1)
    with pytest.raises(ImageError, match="more than 100 scans"):
        check_jpeg(data[:-2] + EMPTY_SCAN * 100 + data[-2:])


def test_scans_of_single_components_are_counted(photos: list[Image.Image]) -> None:
    """Sequential, too, but not all in one: each may come again."""
    data = jpeg(photos[0])
    scan = data.index(b"\xff\xda")
    one = segment(0xDA, b"\1\1\0\0\x3f\0")
    with pytest.raises(ImageError, match="more than 100 scans"):
        check_jpeg(data[:scan] + one * 101 + data[-2:])
    with pytest.raises(ImageError, match="more than 100 scans"):  # no frame, or two
        check_jpeg(data[:2] + one * 101)
    frame = data.index(b"\xff\xc0")
    with pytest.raises(ImageError, match="more than 100 scans"):
        check_jpeg(data[:frame] + data[frame : frame + 19] + data[frame:-2] + EMPTY_SCAN * 100)


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
