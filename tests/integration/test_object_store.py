"""The service and its commands with an S3 server in the place of files."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from models.captured import captured_images
from testing import patient
from testing.commands import vgg19
from testing.images import coloured_pixels, encode
from testing.server import COMMAND, serve
from testing.waiting import wait_until
from tests.object_store import needs_s3

pytestmark = [pytest.mark.slow, needs_s3]


def test_a_service_captures_into_a_bucket_where_nothing_is_yet(
    tiny_home: Path, tmp_path: Path, bucket: str
) -> None:
    url, image = f"{bucket}/captured", encode(coloured_pixels(0, "red"))
    settings = {"VGG19_CAPTURE": "all", "VGG19_CAPTURE_URL": url}
    with serve(tiny_home, tmp_path / "log", COMMAND, **settings) as server:
        answer = patient.post(
            f"{server.url}/classify", content=image, headers={"Content-Type": "image/png"}
        )
        assert answer.status_code == httpx.codes.OK, answer.text
        wait_until(lambda: len(list(captured_images(url))) == 1)
    (kept,) = captured_images(url)
    assert kept.path.read_bytes() == image


def test_models_are_pushed_and_pulled_as_a_user_types_it(
    tiny_home: Path, tmp_path: Path, bucket: str
) -> None:
    pushed = vgg19(tiny_home, "models", "push", f"{bucket}/models", "production")
    version = (tiny_home / "models" / "vgg19" / "latest").read_text().strip()
    assert version in pushed
    other = tmp_path / "other"
    assert version in vgg19(other, "models", "pull", f"{bucket}/models")
    assert version in vgg19(other, "models")
