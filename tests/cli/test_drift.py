from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from models.bundle.acceptance import Acceptance
from models.bundle.bundle import ACCEPTANCE_FILE, open_bundle
from models.bundle.writer import write_manifest
from models.monitoring.reference import read_reference
from serving.engine.session import checked_session
from serving.http.drift_schema import Drift
from serving.loading import session_options
from serving.offline.measured import gather, measure_files
from serving.settings import load_settings
from testing.bundles import provenance, write_tiny_bundle
from testing.images import coloured_pixels, encode
from testing.reference import add_reference

Vgg19 = Callable[..., int]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle that knows 120 images; beside it, others: as usual, and half of them bright."""
    monkeypatch.chdir(tmp_path)
    for folder, first in (("known", 0), ("usual", 200), ("mixed", 400)):
        (tmp_path / folder).mkdir()
        for seed in range(first, first + 120):
            pixels = coloured_pixels(seed)
            if folder == "mixed" and seed % 2:
                pixels = pixels // 4 + 180
            (tmp_path / folder / f"{seed}.png").write_bytes(encode(pixels))
    path = write_tiny_bundle(tmp_path / "bundle")
    Acceptance(target_precision=0.9, min_confidence=0.5).write(path / ACCEPTANCE_FILE)
    write_manifest(path, provenance())
    add_reference(path, sorted((tmp_path / "known").iterdir()))
    return tmp_path


def test_images_as_usual(work: Path, run_main: Vgg19, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "usual" / "broken.png").write_bytes(b"nothing")
    assert run_main("drift", "bundle", "usual", "--json", "d.json") == 0
    out = capsys.readouterr().out
    assert "no alarm: no certain difference between 120 images and 120 validation images" in out
    assert "could not be read: usual/broken.png: not an image" in out
    found = Drift.model_validate(json.loads(Path("d.json").read_text()))
    assert (found.images, found.windows.recent, found.alarm) == (120, 120, None)
    assert "usual" not in capsys.readouterr().err


def test_what_differs_is_shown(
    work: Path, run_main: Vgg19, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main("drift", "bundle", "mixed", "--page", "p.html", "--json", "d.json") == 3
    out = capsys.readouterr().out
    assert "120 images differ from 120 validation images in" in out
    assert "brightness (0 to 255) (PSI " in out
    page = Path("p.html").read_text()
    shown = [int(name) for name in np.array(_names(page)).astype(int)]
    assert len(shown) == 48
    assert sum(seed % 2 for seed in shown) == 48  # the bright ones
    assert "http" not in page.replace("http-equiv", "")  # one file, that asks for nothing
    alarm = json.loads(Path("d.json").read_text())["alarm"]
    assert "brightness" in alarm["features"]
    assert "format" not in alarm["features"]


def _names(page: str) -> list[str]:
    return re.findall(r"(\d+)\.png</figcaption>", page)


def test_captured_images(work: Path, run_main: Vgg19) -> None:
    """STEM.img, beside records that are not images."""
    captured = work / "captured"
    captured.mkdir()
    for file in (work / "mixed").iterdir():
        (captured / f"{file.stem}.img").write_bytes(file.read_bytes())
        (captured / f"{file.stem}.json").write_text("{}")
    assert run_main("drift", "bundle", "captured") == 3


def test_a_table_of_predict(
    work: Path, run_main: Vgg19, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its answers count, and the images where they still are."""
    bundle = open_bundle(work / "bundle")
    session = checked_session(bundle, session_options(load_settings(), worker_index=1))
    files = [str(file) for file in sorted((work / "mixed").iterdir())]
    rows = gather(
        measure_files(
            files, session.judge, bundle.spec, bundle.acceptance(), batch_size=16, threads=1
        )
    ).rows
    table = work / "t.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label_1", "probability_1", "accepted", "distance", "error"])
        for name, row in zip(files, rows, strict=True):
            label = bundle.spec.labels[int(row[2])]
            writer.writerow([name, label, round(row[0], 6), bool(row[3]), "", ""])
        writer.writerow(["gone.png", "", "", "", "", "can't be read"])
    assert run_main("drift", "bundle", "mixed", "--json", "folder.json") == 3
    assert run_main("drift", "bundle", "t.csv", "--json", "table.json") == 3
    folder, of_table = (json.loads((work / f"{n}.json").read_text()) for n in ("folder", "table"))
    for one, other in zip(folder["features"], of_table["features"], strict=True):
        if one["name"] == "confidence":  # of which the table has six digits
            distances = [each["windows"]["day"]["jensen_shannon"] for each in (one, other)]
            assert distances[0] == pytest.approx(distances[1], abs=0.05)
        else:
            assert one["windows"] == other["windows"], one["name"]
    for name in files:
        Path(name).unlink()
    capsys.readouterr()
    assert run_main("drift", "bundle", "t.csv", "--json", "gone.json") in (0, 3)
    features = json.loads((work / "gone.json").read_text())["features"]
    tested = {one["name"]: one["images_tested"] for one in features}
    assert tested == {
        "confidence": 120, "label": 120, "accepted": 120, "brightness": 0, "contrast": 0,
        "aspect_ratio": 0, "size": 0, "format": 0,
    }  # fmt: skip


def test_mistakes_are_one_line(
    work: Path, run_main: Vgg19, capsys: pytest.CaptureFixture[str]
) -> None:
    (work / "empty").mkdir()
    (work / "other.csv").write_text("file,label_1,probability_1\na.png,owl,0.5\n")
    label = open_bundle(work / "bundle").spec.labels[0]
    (work / "words.csv").write_text(f"file,label_1,probability_1\na.png,{label},high\n")
    (work / "comma.csv").write_text(
        f'file,label_1,probability_1,distance\na.png,{label},0.5,"0,7"\n'
    )
    (work / "list.csv").write_text("path\na.png\n")
    write_tiny_bundle(work / "old")
    assert read_reference(open_bundle(work / "old")) is None
    for arguments, message in (
        (("old", "usual"), "old has no reference: it was trained before there was any; train it"),
        (("bundle", "empty"), "no image files"),
        (("bundle", "other.csv"), "has the label 'owl', which the model hasn't"),
        (("bundle", "words.csv"), "has 'high' in its column probability_1, which is no number"),
        (("bundle", "comma.csv"), "has '0,7' in its column distance, which is no number"),
        (("bundle", "list.csv"), "is no table of 'vgg19 predict'"),
    ):
        assert run_main("drift", *arguments) == 1
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
