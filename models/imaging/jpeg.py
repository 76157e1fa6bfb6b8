"""What a JPEG asks of its decoder, looked at before one is started.

A decoder goes over all blocks once a scan, also for scans of no data: each is 10 bytes that take 5
ms at 81 megapixels, so 100 kB could keep a core busy for a minute. And Pillow reads the segments
before the first scan in Python, appending each piece of EXIF data to all that it has.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from models.errors import ImageError

# What libtiff allows by default (LIBTIFF_JPEG_MAX_ALLOWED_SCAN_NUMBER); libjpeg's own progressive
# files have 10.
MAX_SCANS = 100
# A colour profile may have 255; depth maps and the like, at 64 kB each, rarely as many.
MAX_SEGMENTS = 1000

_MARK = 0xFF
_START, _END, _SCAN = 0xD8, 0xD9, 0xDA
_SEQUENTIAL_FRAMES = (0xC0, 0xC1)
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # without tables and JPEG extensions
# Any marker but those within a scan (stuffed zeros, RST0 to RST7).
_MARKER = re.compile(rb"\xff([\x02-\xcf\xd8-\xfe])")


def check_jpeg(data: bytes) -> None:
    """Let pass what is no JPEG, and JPEGs of a usual number of parts.

    Raises:
        ImageError: more than `MAX_SCANS` scans or `MAX_SEGMENTS` segments; of a file that can have
            one scan only, what stands before it counts.
    """
    if not _has_one_scan(data) and not _has_few_markers(data):
        _check(data, MAX_SCANS)


def check_jpeg_head(data: bytes) -> None:
    """As `check_jpeg`, up to the first scan, which is what Pillow reads to open an image. It takes
    microseconds, whatever the size.

    Raises:
        ImageError: more than `MAX_SEGMENTS` segments before it.
    """
    _check(data, 0)


def _has_one_scan(data: bytes) -> bool:
    """Whether it is sequential and all of its components are in the first scan, as in most JPEGs:
    libjpeg goes over its blocks once and refuses any other scan (jdinput.c, JERR_EOI_EXPECTED).

    So nothing behind the head is looked at. NumPy, which does that, lets go of the GIL three times,
    and beside other requests each wait for it takes longer than the search.
    """
    if not data.startswith(b"\xff\xd8"):
        return True
    components = 0
    for segments, (marker, start) in enumerate(_segments(data), start=1):
        if segments > MAX_SEGMENTS:
            return False
        if marker == _SCAN:
            return 0 < components == int.from_bytes(data[start + 2 : start + 3])
        if marker in _FRAMES:
            if components or marker not in _SEQUENTIAL_FRAMES:
                return False
            # Behind length (2 bytes), precision (1), height and width (2 each): ITU-T T.81, B.2.2.
            components = int.from_bytes(data[start + 7 : start + 8])
    return False


def _has_few_markers(data: bytes) -> bool:
    """Whether it can't have too many, wherever its segments begin and end: in 10 microseconds for
    70 kB, where going from one to the next takes 25."""
    values = np.frombuffer(data, np.uint8)
    after = values[1:][values[:-1] == _MARK].tobytes()
    return bool(after.count(_SCAN) <= MAX_SCANS and len(after) - after.count(0) <= MAX_SEGMENTS)


def _check(data: bytes, max_scans: int) -> None:
    """0: only what stands before the first scan."""
    if not data.startswith(b"\xff\xd8"):
        return
    scans = 0
    for segments, (marker, _) in enumerate(_segments(data), start=1):
        scans += marker == _SCAN
        if scans > max_scans == 0:
            return
        if scans > max_scans or segments > MAX_SEGMENTS:
            raise ImageError(
                f"the JPEG has more than {MAX_SCANS} scans or {MAX_SEGMENTS:,} segments; "
                "save it again"
            )


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Marker and place behind it of each up to the image's end; what follows that is no decoder's
    business."""
    position = 2
    while (found := _MARKER.search(data, position)) is not None:
        marker = found[1][0]
        if marker == _END:
            return
        yield marker, found.end()
        length = 0 if marker == _START else int.from_bytes(data[found.end() : found.end() + 2])
        position = found.end() + length
