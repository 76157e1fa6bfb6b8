from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from training.reports.html_page import thumbnail


def test_a_thumbnail_shows_all_of_an_image(tmp_path: Path) -> None:
    Image.new("RGB", (400, 100), (10, 20, 30)).save(tmp_path / "a.png")
    kind, _, content = thumbnail(tmp_path / "a.png").partition(",")
    assert kind == "data:image/png;base64"
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))
    assert pixels.shape == (112, 112, 3)
    is_image = (pixels == (10, 20, 30)).all(axis=2)
    assert is_image[42:70].all()  # 28 rows of 112: as wide, a quarter as high
    assert is_image.sum() == 28 * 112


def test_of_a_file_that_is_gone_it_is_empty(tmp_path: Path) -> None:
    assert thumbnail(tmp_path / "a.png") == "data:,"
    (tmp_path / "b.png").write_bytes(b"no image")
    assert thumbnail(tmp_path / "b.png") == "data:,"
