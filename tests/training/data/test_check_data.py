from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from rich.console import Console

from cli.data_table import print_report
from models.imaging.preprocessing import Preprocessing
from testing.commands import run_command
from testing.images import coloured_pixels, encode, write_image_folder
from training.data.check_data import DataReport, _close_pairs, check_data
from training.data.checks import check_files
from training.data.splits import SplitRule
from training.redeploy.ingest import ingest
from training.reporter import SilentReporter


@pytest.fixture
def folder(tmp_path: Path, photos: list[Image.Image]) -> Path:
    """Two classes of crops of two photographs, in train and test, with every fault once."""
    root = tmp_path / "data"
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 2)):
        for photo, label in zip(photos, ("china", "flower"), strict=True):
            (root / split / label).mkdir(parents=True)
            for number in range(count):
                x, y = int(rng.integers(0, 400)), int(rng.integers(0, 200))
                photo.crop((x, y, x + 200, y + 200)).save(root / split / label / f"{number}.png")
    original = Image.open(root / "train" / "china" / "0.png")
    (root / "train" / "china" / "copy.png").write_bytes(
        (root / "train" / "china" / "0.png").read_bytes()
    )
    original.resize((150, 150)).save(root / "test" / "china" / "smaller.jpg", quality=80)
    original.save(root / "train" / "flower" / "wrong-label.jpg", quality=95)
    original.convert("L").resize((160, 160)).save(root / "train" / "china" / "grey.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    photos[1].rotate(90, expand=True).save(root / "train" / "flower" / "turned.jpg", exif=exif)
    (root / "train" / "flower" / "half.png").write_bytes(
        (root / "train" / "flower" / "0.png").read_bytes()[:2000]
    )
    return root


@pytest.fixture
def report(folder: Path) -> DataReport:
    return check_data(folder, SilentReporter())


def test_counts_sizes_and_modes(report: DataReport) -> None:
    assert report.images == 17
    assert report.counts["train"] == {"china": 6, "flower": 6}
    assert report.counts["test"] == {"china": 3, "flower": 2}
    assert report.imbalance == pytest.approx(9 / 8)
    assert report.sizes["smallest"] == (150, 150)
    assert report.sizes["largest"] == (427, 640)
    assert report.modes == {"RGB": 16, "L": 1}
    assert report.exif_turned == 1


def test_unreadable_files_are_named(report: DataReport) -> None:
    (bad,) = report.unreadable
    assert bad.path.name == "half.png"
    assert "truncated" in bad.reason


def test_exact_and_near_copies(report: DataReport) -> None:
    assert report.exact_duplicates == [["train/china/0.png", "train/china/copy.png"]]
    (near,) = report.near_duplicates
    assert set(near) == {
        "train/china/0.png",
        "train/china/grey.png",
        "test/china/smaller.jpg",
        "train/flower/wrong-label.jpg",
    }


def test_leaks_and_conflicting_labels(report: DataReport) -> None:
    assert report.leaks == report.near_duplicates
    assert report.conflicting_labels == report.near_duplicates


@pytest.mark.slow
def test_the_command_prints_writes_and_fails_on_leaks(folder: Path, tmp_path: Path) -> None:
    result = run_command(
        "vgg19", "check-data", str(folder), "--output", "check.json", cwd=tmp_path, home=tmp_path
    )
    assert result.returncode == 3
    assert "LEAKS: copies in different splits: 1" in result.stdout
    assert json.loads((tmp_path / "check.json").read_text())["images"] == 17
    (folder / "test" / "china" / "smaller.jpg").unlink()
    clean = run_command("vgg19", "check-data", str(folder), cwd=tmp_path, home=tmp_path)
    assert clean.returncode == 0, clean.stderr
    assert "\ncopies in different splits: 0" in clean.stdout


def test_the_command_takes_columns_and_names_of_splits(folder: Path, tmp_path: Path) -> None:
    parts = {"train": "fit", "test": "final"}
    rows = [
        f"{file},{file.parent.name},{parts[file.parent.parent.name]}"
        for file in sorted(folder.rglob("?.png"))
    ]
    (tmp_path / "x.csv").write_text("\n".join(["file,kind,part", *rows, "a.png,none,fit"]))
    result = run_command(
        "vgg19", "check-data", "x.csv", "--image-column", "file", "--label-column", "kind",
        "--split-column", "part", "--split-name", "fit=train", "--split-name", "final=test",
        "--output", "check.json", cwd=tmp_path, home=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "check.json").read_text())
    assert report["counts"] == {
        "train": {"china": 4, "flower": 4}, "test": {"china": 2, "flower": 2},
    }  # fmt: skip
    assert [file["reason"] for file in report["left_out"]] == ["no label ('none')"]
    assert "left out: 1" in result.stdout


def test_side_files_and_classes_that_nothing_judges(folder: Path) -> None:
    (folder / "train" / "flower" / "Thumbs.db").write_bytes(b"x")
    (folder / "train" / "lonely").mkdir()
    (folder / "train" / "lonely" / "0.png").write_bytes(
        (folder / "test" / "flower" / "0.png").read_bytes()
    )
    report = check_data(folder, SilentReporter())
    assert report.side_files == {"Thumbs.db": 1}
    assert report.judged_nowhere == ["lonely"]
    out = io.StringIO()
    print_report(report, Console(file=out, width=200))
    assert "side files, no images: 1" in out.getvalue()
    assert "classes judged nowhere, with too few images: lonely" in out.getvalue()


def test_images_that_the_crop_cuts_by_half_are_counted(tmp_path: Path) -> None:
    """Of 1.53 to 1 and more: 224 of 256 rows, and as many of 392 columns, are a half."""
    sizes = [(200, 200), (300, 200), (200, 300), (310, 200), (200, 310), (50, 1)]
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for number, size in enumerate(sizes):
            Image.new("RGB", size, (number, 0, len(label))).save(tmp_path / label / f"{number}.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (310, 200), (99, 0, 0)).save(tmp_path / "a" / "turned.jpg", exif=exif)
    Image.new("RGB", (200, 200), (98, 0, 0)).save(tmp_path / "a" / "also.jpg", exif=exif)
    report = check_data(tmp_path, SilentReporter())
    assert (report.images, report.cropped) == (14, 7)
    assert report.as_json()["cropped"] == 7
    out = io.StringIO()
    print_report(report, Console(file=out, width=80))
    assert "lose more than half of their area to the centre crop: 7\n" in out.getvalue()
    assert "7 of 14 images lose more than half of their area" in out.getvalue()
    assert "train with --resize squash, or --resize pad" in out.getvalue()


def test_uneven_classes_are_told_how_to_be_weighed(tmp_path: Path) -> None:
    write_image_folder(tmp_path, {"blue": 35, "red": 10})
    out = io.StringIO()
    print_report(check_data(tmp_path, SilentReporter()), Console(file=out, width=200))
    assert "3.5 times fewer: train with --class-weights balanced" in out.getvalue()
    assert "--resize" not in out.getvalue()


def test_brackets_in_names_are_shown(report: DataReport) -> None:
    out = io.StringIO()
    shown = DataReport(**{**report.__dict__, "exact_duplicates": [["a[red].png", "b.png"]]})
    print_report(shown, Console(file=out, width=200))
    assert "a[red].png  =  b.png" in out.getvalue()


def test_megabytes_beside_the_pixels_are_no_fault(folder: Path) -> None:
    """As in the service: `models.imaging.png`."""
    plain = Image.open(folder / "train" / "china" / "0.png")
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "x" * 3_000_000, zip=True)
    plain.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(
        folder / "train" / "china" / "text.png", pnginfo=info, icc_profile=bytes(3_000_000)
    )
    report = check_data(folder, SilentReporter())
    assert report.images == 18
    assert report.counts["train"]["china"] == 7


@pytest.mark.parametrize("bits", [0, 1, 4, 7])
def test_close_hashes_are_those_of_comparing_all(bits: int) -> None:
    """Of 300 random hashes and copies of them in which up to 10 bits are turned."""
    rng = np.random.default_rng(bits)
    hashes = rng.integers(0, 2**64, 300, dtype=np.uint64)
    for turned in range(11):
        where = rng.choice(64, turned, replace=False).astype(np.uint64)
        flips = np.bitwise_or.reduce(np.uint64(1) << where, initial=np.uint64(0))
        hashes = np.append(hashes, hashes[turned * 20 : turned * 20 + 20] ^ flips)
    differing = np.bitwise_count(hashes[:, None] ^ hashes)
    expected = {tuple(pair) for pair in np.argwhere(np.triu(differing <= bits, 1)).tolist()}
    assert len(expected) >= 20 * (bits + 1)
    assert set(_close_pairs(hashes, bits)) == expected


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


DAMAGED_EXIF = {
    "no TIFF": b"rubbish",
    "half a header": b"II*",
    "a directory that isn't there": b"II*\0\xff\xff\xff\x7f",
    "more entries than bytes": b"II*\0\x08\0\0\0\xff\xff",
    "an entry of a strange type": b"II*\0\x08\0\0\0\x01\0\x12\x01\xff\xff\x01\0\0\0\x06\0\0\0",
    "an orientation of text": b"II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x02\0\0\0a\0\0\0",
    "big-endian and short": b"MM\0*\0\0\0\x08\0",
    "empty": b"",
    "ones": b"\xff" * 50,
}


@pytest.mark.parametrize("exif", DAMAGED_EXIF.values(), ids=DAMAGED_EXIF)
def test_damaged_exif_is_no_fault(tmp_path: Path, exif: bytes) -> None:
    """It isn't about pixels: training, this check and a redeploy job take the image."""
    write_image_folder(tmp_path, {"blue": 12, "red": 12})
    plain = encode(coloured_pixels(500, "blue"))
    (tmp_path / "blue" / "exif.png").write_bytes(
        plain[:33] + _png_chunk(b"eXIf", exif) + plain[33:]
    )
    turned = Image.Exif()
    turned[0x0112] = 6
    buffer = io.BytesIO()
    Image.fromarray(coloured_pixels(501, "red")).save(buffer, "JPEG", exif=turned.tobytes())
    jpeg = buffer.getvalue()
    at = jpeg.index(b"Exif\0\0") + 6
    (tmp_path / "red" / "exif.jpg").write_bytes(jpeg[:at] + b"\xff" * 8 + jpeg[at + 8 :])

    report = check_data(tmp_path, SilentReporter())
    assert (report.images, report.unreadable, report.exif_turned) == (26, [], 0)
    rule = Preprocessing(image_size=32, resize_size=32)
    ingested = ingest([tmp_path], SplitRule(0.3, 0.3), rule, SilentReporter(), max_bad_fraction=0)
    assert len(ingested.images.samples) + ingested.left_out == 26


@pytest.mark.parametrize("damage", ["gone", "cut", "text"])
def test_an_image_that_is_damaged_meanwhile_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    """After it was checked, and before it is compared."""
    write_image_folder(tmp_path, {"blue": 8, "red": 8})
    victim = tmp_path / "blue" / "0000.png"
    content = victim.read_bytes()

    def check_then_damage(*arguments: Any) -> Any:
        result = check_files(*arguments)
        victim.unlink()
        if damage != "gone":
            victim.write_bytes(content[:200] if damage == "cut" else b"text")
        return result

    for module in ("training.data.check_data", "training.redeploy.ingest"):
        monkeypatch.setattr(f"{module}.check_files", check_then_damage)
    report = check_data(tmp_path, SilentReporter())
    assert [file.path for file in report.unreadable] == [victim]
    assert report.images == 15
    reporter = SilentReporter()
    victim.write_bytes(content)
    rule = Preprocessing(image_size=32, resize_size=32)
    ingested = ingest([tmp_path], SplitRule(0.3, 0.3), rule, reporter, max_bad_fraction=0)
    assert [file.path for file in ingested.images.skipped] == [victim]
    assert any(str(victim) in warning for warning in reporter.warnings)
