"""`vgg19 classify` and a service that runs."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from testing.commands import run_command
from testing.images import write_image_folder
from testing.server import Server, serve


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = write_image_folder(tmp_path / "photos", {"blue": 2, "red": 1})
    (folder / "red" / "bad.jpg").write_text("no image")
    return folder


def test_one_bad_file_among_good_ones(server: Server, photos: Path, tmp_path: Path) -> None:
    """It was a traceback."""
    address = server.url.removeprefix("http://")
    result = run_command("vgg19", "classify", address, "photos", cwd=tmp_path, home=tmp_path)
    assert result.returncode == 1
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines[:4]] == [
        "photos/blue/0000.png", "photos/blue/0001.png", "photos/red/0002.png", "photos/red/bad.jpg"
    ]  # fmt: skip
    assert lines[0].startswith("photos/blue/0000.png: blue ")
    assert lines[3].startswith("photos/red/bad.jpg: not an image in a supported format")
    assert lines[4].startswith("answered by vgg19:")


def test_files_of_a_folder_that_are_skipped_are_told(
    server: Server, photos: Path, tmp_path: Path
) -> None:
    (photos / "red" / "bad.jpg").rename(photos / "red" / "IMG_0001.HEIC")
    result = run_command("vgg19", "classify", server.url, "photos", cwd=tmp_path, home=tmp_path)
    assert result.returncode == 0
    assert result.stdout.splitlines()[0].startswith("1 file (1 .heic) skipped; of folders, .bmp, ")


def test_where_all_are_bad_each_is_named(server: Server, photos: Path, tmp_path: Path) -> None:
    (photos / "red" / "cut.png").write_bytes(b"\x89PNG")
    files = [str(photos / "red" / name) for name in ("bad.jpg", "cut.png")]
    result = run_command("vgg19", "classify", server.url, *files, cwd=tmp_path, home=tmp_path)
    assert result.returncode == 1
    lines = result.stdout.splitlines()
    assert [line.partition(": ")[0] for line in lines] == files
    assert "Traceback" not in result.stderr


def test_heat_maps(server: Server, photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos / "blue", tmp_path / "again")
    result = run_command(
        "vgg19", "classify", server.url, "photos/blue", "again/0000.png", "--heat-maps", "maps",
        cwd=tmp_path, home=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "heat maps are in maps"
    names = sorted(path.name for path in (tmp_path / "maps").iterdir())
    assert names == ["0000.png.2.png", "0000.png.png", "0001.png.png"]
    with Image.open(tmp_path / "maps" / "0001.png.png") as picture:
        assert np.asarray(picture).shape == (32, 32, 3)


def test_a_key_from_a_file(tiny_home: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret\n")
    keys = hashlib.sha256(b"secret").hexdigest()
    with serve(tiny_home, tmp_path / "log", VGG19_API_KEYS=keys) as server:
        command = ("vgg19", "classify", server.url, "photos/blue")
        without = run_command(*command, cwd=tmp_path, home=tmp_path)
        with_it = run_command(*command, "--api-key-file", "key", cwd=tmp_path, home=tmp_path)
    assert without.returncode == 1
    assert "refuses (401)" in without.stderr
    assert "--api-key-env or --api-key-file" in without.stderr
    assert with_it.returncode == 0, with_it.stderr
