"""Captured images in an object store: the same as in a directory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from models.captured import captured_images
from serving.core.errors import NotFound
from serving.observability.capture import CaptureError
from testing.server import ROOT
from tests.object_store import needs_s3
from tests.serving.observability.test_capture import IMAGE, SURE, answer_of, capture_in
from training.redeploy.captured import labelled_images

pytestmark = [pytest.mark.slow, needs_s3]

# Another worker, or the same one tomorrow.
_OTHER = """
import sys
from tests.serving.observability.test_capture import IMAGE, SURE, answer_of, capture_in
url, limit, ids = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
capture = capture_in(url, limit_bytes=limit)
answer = answer_of(SURE)
for request_id in ids:
    assert capture.offer([IMAGE], answer, request_id) == 1
capture.close(60)
"""


def in_another_process(url: str, *request_ids: str, limit_bytes: int = 10**9) -> None:
    command = [sys.executable, "-c", _OTHER, url, str(limit_bytes), *request_ids]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)


@pytest.mark.parametrize("path", ["", "/", "/prefix", "/prefix/", "/a/deep/prefix", "/with space"])
def test_it_starts_where_nothing_is_yet(bucket: str, path: str) -> None:
    """It couldn't: an object store has no empty directories."""
    capture = capture_in(bucket + path)
    assert capture.offer([IMAGE], answer_of(SURE), "r1") == 1
    capture.close(60)
    (kept,) = captured_images(bucket + path)
    assert kept.path.read_bytes() == IMAGE
    assert kept.record["request_id"] == "r1"
    again = capture_in(bucket + path)  # and where something is
    again.label("r1", 0, "rose")
    again.close(60)
    assert [image.label for image in labelled_images(bucket + path)] == ["rose"]


def test_what_another_process_writes_is_seen(bucket: str) -> None:
    """fsspec keeps listings, so an image that came later could not be labelled."""
    url = f"{bucket}/captured"
    capture = capture_in(url)
    for number in range(2):
        with pytest.raises(NotFound):
            capture.label(f"r{number}", 0, "rose")
        assert len(captured_images(url)) == number
        in_another_process(url, f"r{number}")
        capture.label(f"r{number}", 0, "rose")
        assert len(labelled_images(url)) == number + 1
    capture.close(60)


def test_two_processes_keep_one_limit(bucket: str) -> None:
    url = f"{bucket}/captured"
    one = len(IMAGE) + 300
    capture = capture_in(url, limit_bytes=10 * one)
    in_another_process(url, *(f"theirs{number}" for number in range(8)), limit_bytes=10 * one)
    answer = answer_of(SURE)
    for number in range(12):
        capture.offer([IMAGE], answer, f"ours{number}")
    capture.close(60)
    left = [image.record["request_id"] for image in captured_images(url)]
    assert len(left) * one <= 11 * one
    assert left[-1] == "ours11"  # the oldest made room
    assert "theirs0" not in left


def test_what_makes_room_may_be_gone_already(tmp_path: Path, bucket: str) -> None:
    for url in (str(tmp_path), f"{bucket}/captured"):
        first, second = (capture_in(url, limit_bytes=3000) for _ in range(2))
        answer = answer_of(SURE)
        for number in range(20):
            for capture in (first, second):
                assert capture.offer([b"x" * 900], answer, str(number)) == 1
        first.close(60)
        second.close(60)
        assert 1 <= len(captured_images(url)) <= 4


def test_marks_of_directories_are_no_images(bucket: str) -> None:
    import s3fs

    files = s3fs.S3FileSystem()
    for name in ("captured/", "captured/below/", "captured/00000000000000000000/"):
        files.pipe_file(f"{bucket}/{name}", b"")
    url = f"{bucket}/captured"
    capture = capture_in(url)
    capture.offer([IMAGE], answer_of(SURE), "r1")
    capture.close(60)
    assert len(captured_images(url)) == 1


@pytest.mark.parametrize(
    "url", ["s3://No_Such_Bucket!/x", "s3://", "nosuchprotocol://bucket/x"], ids=str
)
def test_what_cannot_be_used_is_one_line(s3_endpoint: str, url: str) -> None:
    with pytest.raises(CaptureError, match="VGG19_CAPTURE_URL .* can't be used") as error:
        capture_in(url)
    assert "\n" not in str(error.value)
