"""A data set whose names hold everything that names can hold, through every command."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest
import yaml

from models.bundle.spec import ModelSpec
from testing import patient
from testing.hostile import FILE_STEMS, LABELS, write_hostile_folder
from testing.images import coloured_pixels, encode
from testing.server import ROOT, serve
from tests.integration.browsing import PHONE, Open, needs_chromium

pytestmark = pytest.mark.exhaustive
IMAGES = 12 * len(FILE_STEMS)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("hostile")
    write_hostile_folder(place / "data")
    return place


def vgg19(place: Path, *arguments: str, code: int = 0) -> str:
    """With a thin network, in a terminal of 80 columns that knows ASCII alone; what it printed."""
    environment = os.environ | {
        "BENTOML_HOME": str(place / "home"),
        "PYTHONPATH": str(ROOT),
        "PYTHONIOENCODING": "ascii",
        "COLUMNS": "80",
    }
    result = subprocess.run(
        [sys.executable, "-m", "testing.thin_cli", *arguments],
        cwd=place, env=environment, capture_output=True, check=False, timeout=250,
    )  # fmt: skip
    output = result.stdout + result.stderr
    assert result.returncode == code, output.decode()
    assert output.isascii()
    assert b"Traceback" not in output
    assert not set(output) & {0x1B, 0x07, 0x0D}  # what commands a terminal
    return result.stdout.decode()


def test_1_check_data(place: Path) -> None:
    printed = vgg19(place, "check-data", "data", "--output", "check.json")
    assert "".join(printed.split()).count("x" * 40) >= 1  # folded, not cut off
    for shown in (r"[red]x[bold] :cat: ", r"two\nlines\r\x1b[31m\x07", r"\u202eevil\u2066"):
        assert shown in printed
    assert len(LABELS) == 11
    assert r"caf\xe9" in LABELS
    counts = json.loads((place / "check.json").read_text())["counts"]["all"]
    assert tuple(sorted(counts)) == LABELS
    assert counts["caf\u00e9"] == 2 * len(FILE_STEMS)  # composed and decomposed are one
    assert sum(counts.values()) == IMAGES


class Page(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_2_train_export_register(place: Path) -> None:
    vgg19(
        place, "train", "--data", "data", "--output", "run", "--weights", "none",
        "--strategy", "full", "--image-size", "32", "--epochs", "1",
    )  # fmt: skip
    page = Page(place / "run" / "report.html")
    assert "script" not in page.tags
    assert "<script>alert(1)<b>&amp;'\"" in page.text
    assert r"two\nlines\r\x1b[31m\x07" in page.text
    assert "accuracy on the run's test split" in vgg19(place, "evaluate", "run")
    vgg19(place, "export", "run")
    vgg19(place, "register", "run")
    vgg19(place, "promote", "latest", "--force")  # it has learnt next to nothing
    assert ModelSpec.read(place / "run" / "bundle" / "spec.json").labels == LABELS


@needs_chromium
def test_the_report_fits_a_phone(place: Path, open_page: Open) -> None:
    """Long class names break, short ones don't, and what is too wide scrolls by itself."""
    watched = open_page((place / "run" / "report.html").as_uri(), viewport=PHONE)
    assert watched.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    layer = watched.page.get_by_role("cell", name="classifier.0", exact=True)
    assert layer.evaluate("cell => cell.getClientRects()[0].height < 40")  # one line


def test_3_predict(place: Path) -> None:
    vgg19(place, "predict", "data", "--output", "table.csv")
    with (place / "table.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == IMAGES
    assert not any(row["error"] for row in rows)
    assert {row["label_1"] for row in rows} <= set(LABELS)


def test_4_serve_label_and_redeploy(place: Path) -> None:
    captured = place / "captured"
    target = "cafe\u0301"
    with serve(
        place / "home", place / "log", VGG19_CAPTURE="all", VGG19_CAPTURE_URL=str(captured)
    ) as server:
        assert server.url
        assert patient.get(server.url).status_code == httpx.codes.OK
        for number, name in enumerate(FILE_STEMS[:5]):
            image = encode(coloured_pixels(5000 + number))
            reply = patient.post(
                f"{server.url}/classify",
                params={"explain": "true", "target": target, "top_k": 20},
                files={"image": (f"{name}.png", image)},
            )
            assert reply.status_code == httpx.codes.OK, reply.text
            labels = {one["label"] for one in reply.json()["images"][0]["predictions"]}
            assert labels == set(LABELS)
            feedback = patient.post(
                f"{server.url}/feedback",
                json={"request_id": reply.headers["x-request-id"], "label": LABELS[2 * number]},
            )
            assert feedback.status_code == httpx.codes.OK, feedback.text
        hostile = place / "data" / "=1+1" / f"{FILE_STEMS[5]}.png"
        assert "answered by" in vgg19(place, "classify", server.url, os.fspath(hostile))
    vgg19(place, "label", "captured", "--output", "labels")
    page = Page(place / "labels" / "label.html")
    assert page.tags.count("script") == 1
    with (place / "labels" / "labels.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["label"] for row in rows} == {"", *LABELS[:10:2]}
    vgg19(place, "label", "captured", "--from", "labels/labels.csv")
    config = {
        "data": ["data"],
        "capture": "captured",
        "state": "jobs",
        "train": {"weights": "none", "strategy": "full", "image_size": 32, "epochs": 1},
        "gate": {"min_held_out": 1},
        "suspects": "off",  # which would take another pass through the network
    }
    (place / "redeploy.yaml").write_text(yaml.safe_dump(config))
    printed = vgg19(place, "redeploy", "--config", "redeploy.yaml", code=3)
    assert "is refused: " in printed
    (report,) = (place / "jobs" / "jobs").glob("*/report.html")
    assert "script" not in Page(report).tags
    (data,) = (place / "jobs" / "jobs").glob("*/run/data.json")
    assert tuple(json.loads(data.read_text())["labels"]) == LABELS
