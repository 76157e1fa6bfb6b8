from __future__ import annotations

from pathlib import Path

import pytest

from testing.images import coloured_pixels, encode, write_image_folder
from training.data.sources import DataError, find_images


def test_a_file_that_is_neither(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(encode(coloured_pixels(0)))
    with pytest.raises(DataError, match="neither a directory with one folder per class nor"):
        find_images(tmp_path / "x.png")


def test_folder_order_is_fixed(tmp_path: Path) -> None:
    write_image_folder(tmp_path, {"red": 3, "blue": 3})
    assert find_images(tmp_path) == find_images(tmp_path)
    assert [file.label for file in find_images(tmp_path).files] == ["blue"] * 3 + ["red"] * 3
