from __future__ import annotations

import base64
import csv
import io
import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.captured import CaptureError, captured_images, put_labels
from testing.images import COLOURS, coloured_pixels, encode
from training.redeploy.captured import labelled_images
from training.redeploy.labelling import write_labelling
from training.reporter import SilentReporter


@pytest.fixture
def location(tmp_path: Path) -> Path:
    """Three captured images: the second labelled by feedback, the third the least certain."""
    place = tmp_path / "captured"
    place.mkdir()
    for number, probability in enumerate((0.9, 0.8, 0.4)):
        stem = f"{number:020d}-{'a' * 16}-000"
        (place / f"{stem}.img").write_bytes(encode(coloured_pixels(number)))
        predictions = [{"label": COLOURS[number], "probability": probability}]
        (place / f"{stem}.json").write_text(json.dumps({"predictions": predictions}))
    (place / f"{1:020d}-{'a' * 16}-000.label.json").write_text('{"label": "green"}')
    (place / f"{9:020d}-{'a' * 16}-000.img").write_bytes(b"its record is still on its way")
    return place


def test_what_feedback_labelled_is_a_data_source(location: Path) -> None:
    (file,) = labelled_images(str(location))
    assert (file.label, file.path.suffix, file.split) == ("green", ".img", None)
    assert len(captured_images(f"file://{location}")) == 3


def test_a_table_and_a_page_with_the_least_certain_first(location: Path, tmp_path: Path) -> None:
    table, page = write_labelling(captured_images(str(location)), tmp_path / "out")
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [(row["predicted"], row["probability"]) for row in rows] == [
        ("red", "0.400"), ("green", "0.800"), ("blue", "0.900"),
    ]  # fmt: skip
    assert [row["label"] for row in rows] == ["", "green", ""]
    text = page.read_text()
    assert text.count("<figure>") == 3
    assert "http" not in text.replace("http-equiv", "")  # nothing of a foreign host


def test_the_page_shows_all_of_an_image(location: Path, tmp_path: Path) -> None:
    """Whatever a model sees of it: who labels has to see the object."""
    wide = np.zeros((50, 200, 3), np.uint8)
    wide[:, :20] = (0, 255, 0)  # outside of any centre crop
    for file in location.glob("*.img"):
        file.write_bytes(encode(wide))
    _, page = write_labelling(captured_images(str(location)), tmp_path / "out")
    first = page.read_text().partition("data:image/png;base64,")[2].partition("'")[0]
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(first))))
    assert pixels.shape == (112, 112, 3)
    assert pixels[56, 5].tolist() == [0, 255, 0]
    assert pixels[56, 100].tolist() == [0, 0, 0]


def test_a_filled_in_table_counts_and_wins(location: Path, tmp_path: Path) -> None:
    table, _ = write_labelling(captured_images(str(location)), tmp_path / "out")
    rows = list(csv.DictReader(table.read_text().splitlines()))
    filled = tmp_path / "labels.csv"
    filled.write_text(f'stem,label\n{rows[0]["stem"]},"a, b"\n{rows[1]["stem"]},blue\n')
    assert put_labels(str(location), filled) == 2
    assert {file.label for file in labelled_images(str(location))} == {"a, b", "blue"}
    filled.write_text(f"stem,label\n{rows[2]['stem']},red\n{rows[1]['stem']},\n")
    assert put_labels(str(location), filled) == 3  # what was said before stays
    assert {file.label for file in labelled_images(str(location))} == {"a, b", "blue", "red"}


def test_a_table_of_suspect_labels_is_read_once_it_is_corrected(
    location: Path, tmp_path: Path
) -> None:
    """As `vgg19 probe --suspects` writes it: files of a data set, which keep their stems."""
    one, other = captured_images(str(location))[:2]
    table = tmp_path / "suspects.csv"
    table.write_text(
        "file,label,suggested,margin\n"
        f"train/red/{one.stem}.png,green,green,0.61\n/elsewhere/{other.stem}.jpg,blue,red,0.4\n"
    )
    put_labels(str(location), table)
    labels = {file.stem: file.label for file in captured_images(str(location))}
    assert (labels[one.stem], labels[other.stem]) == ("green", "blue")


def test_what_is_no_table_or_no_location(location: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    with pytest.raises(CaptureError, match="no columns 'stem' .or 'file'. and 'label'"):
        put_labels(str(location), tmp_path / "bad.csv")
    with pytest.raises(CaptureError, match="does the service capture there"):
        captured_images(str(tmp_path / "nothing"))
    with pytest.raises(CaptureError, match="can't be read"):
        captured_images("nosuchprotocol://x")


def test_remote_images_are_fetched_once(
    location: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of any file system of fsspec: here, in memory."""
    import fsspec

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    files = fsspec.filesystem("memory")
    for path in location.iterdir():
        files.pipe_file(f"/captured/{path.name}", path.read_bytes())
    first, *_ = captured_images("memory://captured")
    assert first.path.read_bytes() == encode(coloured_pixels(0))
    assert first.path.is_relative_to(tmp_path / "cache")
    (labelled,) = labelled_images("memory://captured")
    assert labelled.label == "green"


@pytest.mark.parametrize("name", ["json", "label.json"])
@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"predictions": []}', b'"text"', b"7"]
)
def test_a_damaged_record_costs_its_image_alone(
    location: Path, tmp_path: Path, name: str, content: bytes
) -> None:
    """One upload must not stop every job to come."""
    damaged = location / f"{1:020d}-{'a' * 16}-000.{name}"
    damaged.write_bytes(content)
    reporter = SilentReporter()
    images = captured_images(str(location), reporter.warn)
    assert len(images) == 2
    (warning,) = reporter.warnings
    assert str(damaged) in warning
    assert labelled_images(str(location)) == []
    write_labelling(images, tmp_path / "out")


@pytest.mark.parametrize("content", ["stem,label\na,caf\xe9\n".encode("latin-1"), b"\xff\xfes"])
def test_a_table_that_is_not_utf8(location: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.csv").write_bytes(content)
    with pytest.raises(CaptureError, match=r"bad\.csv is not a CSV file in UTF-8"):
        put_labels(str(location), tmp_path / "bad.csv")


@pytest.mark.parametrize("label", ["</script><b>", "two\nlines", "\u202ex", "a\"'&<", "cafe\u0301"])
def test_labels_come_back_as_they_were(location: Path, tmp_path: Path, label: str) -> None:
    record = {"predictions": [{"label": label, "probability": 0.1}]}
    stem = f"{0:020d}-{'a' * 16}-000"
    (location / f"{stem}.json").write_text(json.dumps(record))
    (location / f"{stem}.label.json").write_text(json.dumps({"label": label}))
    table, page = write_labelling(captured_images(str(location)), tmp_path / "out")
    assert page.read_text().count("</script>") == 1
    assert put_labels(str(location), table) == 2
    labels = {file.label for file in labelled_images(str(location))}
    assert labels == {"green", unicodedata.normalize("NFC", label)}
