from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from models.imaging.image import FORMATS
from models.imaging.preprocessing import Preprocessing
from testing.images import write_image_folder
from training.data.checks import check_bad_fraction, check_files, tell
from training.data.listing import DataError
from training.data.side_files import side_kind
from training.data.sources import find_images
from training.reporter import SilentReporter

FILES = [
    "Thumbs.db", "thumbs.DB", "ehthumbs.db", "desktop.ini", "Desktop.ini", "Icon\r", ".DS_Store",
    "._0000.png", ".hidden.png", "0000.xml", "0000.XML", "0000.txt", "labels.csv", "via.json",
    "README", "README.md", "LICENSE", "0000.xmp", "index.html", "notes.docx", "x.npy",
    "0000.ogg", "0000.mp4", "0000.dat", "0000.DAT", "scene.blend", "0000.dcm", "a.part",
]  # fmt: skip
FOLDERS = [
    ".ipynb_checkpoints", "__MACOSX", "lost+found", "@eaDir", "$RECYCLE.BIN", "__pycache__",
    "System Volume Information", ".git", ".Trashes", ".AppleDouble",
]  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_side_files_are_no_bad_images(tmp_path: Path, name: str) -> None:
    write_image_folder(tmp_path, {"blue": 3, "red": 3})
    (tmp_path / "red" / name).write_bytes(b"not an image")
    (tmp_path / name).write_bytes(b"not an image")
    listing = find_images(tmp_path)
    reporter = SilentReporter()
    tell(listing, reporter)
    samples, skipped = check_files(listing.files, Preprocessing(image_size=32), reporter)
    check_bad_fraction(samples, [*skipped, *listing.skipped], 0.0)
    assert len(samples) == 6
    assert reporter.warnings == []
    assert listing.side_files.total() == 2  # left out, with a word
    assert "side files are left out: 2 " in reporter.messages[0]


@pytest.mark.parametrize("name", FOLDERS)
def test_side_folders_are_no_classes_and_hold_no_images(tmp_path: Path, name: str) -> None:
    write_image_folder(tmp_path, {"blue": 3, "red": 3})
    for parent in (tmp_path, tmp_path / "red"):
        (parent / name).mkdir()
        (parent / name / "a.png").write_bytes((tmp_path / "red" / "0003.png").read_bytes())
    listing = find_images(tmp_path)
    assert {file.label for file in listing.files} == {"blue", "red"}
    assert len(listing.files) == 6
    assert listing.skipped == []
    assert listing.side_files.total() == 2


@pytest.mark.parametrize("name", ["a.png", "a.JPEG", "a.heic", "a", "texts.png.part"])
def test_what_may_be_meant_as_an_image_is_looked_at(name: str) -> None:
    assert side_kind(name, is_folder=False) is None


@pytest.mark.parametrize("name", ["cats", "README", "labels.csv", "desktop.ini"])
def test_folders_of_such_names_are_classes(name: str) -> None:
    assert side_kind(name, is_folder=True) is None


@pytest.mark.parametrize("name", ["0000.dat", "0000.part", "0000.orig", "0000", "0000.jpg_large"])
def test_an_image_of_any_name_is_one(tmp_path: Path, name: str) -> None:
    write_image_folder(tmp_path, {"blue": 3, "red": 3})
    for number, image_format in enumerate(FORMATS):
        path = tmp_path / "red" / f"{number}{name}"
        Image.new("RGB", (40, 40), "red").save(path, image_format)
    listing = find_images(tmp_path)
    samples, skipped = check_files(listing.files, Preprocessing(image_size=32), SilentReporter())
    assert (len(samples), skipped, listing.side_files) == (6 + len(FORMATS), [], {})


@pytest.mark.parametrize("name", ["a.jpg", "a.heic", "a.nef", "a"])
def test_what_is_named_as_an_image_and_is_none_is_told_by_name(tmp_path: Path, name: str) -> None:
    write_image_folder(tmp_path, {"blue": 3, "red": 3})
    (tmp_path / "red" / name).write_bytes(b"")
    listing = find_images(tmp_path)
    _, skipped = check_files(listing.files, Preprocessing(image_size=32), SilentReporter())
    assert [file.path.name for file in skipped] == [name]


def test_a_cut_download_is_told_by_name(tmp_path: Path) -> None:
    write_image_folder(tmp_path, {"blue": 3, "red": 3})
    whole = (tmp_path / "red" / "0003.png").read_bytes()
    (tmp_path / "red" / "0009.png.part").write_bytes(whole[: len(whole) // 2])
    listing = find_images(tmp_path)
    _, skipped = check_files(listing.files, Preprocessing(image_size=32), SilentReporter())
    assert [file.path.name for file in skipped] == ["0009.png.part"]


def test_a_class_of_other_files_says_what_they_are(tmp_path: Path) -> None:
    write_image_folder(tmp_path, {"blue": 3})
    (tmp_path / "red" / "deep").mkdir(parents=True)
    for number in range(4):
        (tmp_path / "red" / "deep" / f"{number}.dcm").write_bytes(bytes(200))
    with pytest.raises(DataError, match=r"class 'red' .* holds no image, only .*4 \.dcm"):
        find_images(tmp_path)
