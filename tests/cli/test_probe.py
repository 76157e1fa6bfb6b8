from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from testing.images import coloured_pixels, encode, write_image_folder

pytestmark = pytest.mark.usefixtures("thin_network")

# Random weights suffice to tell colours apart.
OPTIONS = ("--weights", "none", "--image-size", "32", "--mixed-precision", "no")


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """30 images of three colours to train on, a green one of which is labelled red."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    root = tmp_path / "a set"
    write_image_folder(root / "train", {"blue": 10, "green": 10, "red": 9})
    write_image_folder(root / "val", {"blue": 2, "green": 2, "red": 2}, first_seed=100)
    (root / "train" / "red" / "wrong.png").write_bytes(encode(coloured_pixels(200, "green")))
    return root


Vgg19 = Callable[..., int]


@pytest.fixture
def vgg19(run_main: Vgg19) -> Vgg19:
    """The command in this process; returns its exit code."""
    return run_main


def test_all_that_it_writes(data: Path, vgg19: Vgg19, capsys: pytest.CaptureFixture[str]) -> None:
    files = ("--json", "p.json", "--page", "p.html", "--suspects", "s.csv")
    assert vgg19("probe", "--data", data.name, *OPTIONS, *files) == 0
    out = capsys.readouterr().out
    assert re.search(r"block 1 +1?,?\d+ +0\.\d{3} +\d+\.\d% +\d+\.\d% - \d+\.\d% ", out)
    assert "labels that the other images contradict: 1 of 30" in out
    assert re.search(r"train/red/wrong.png +red +green +\d\.\d\d +green, green, green", out)
    assert "recommended: train all layers: with weights none" in out
    command = f"vgg19 train --data 'a set' {shlex.join(OPTIONS)} --strategy full --head-init ridge"
    assert f"  {command}\n" in out

    found = json.loads(Path("p.json").read_text())
    assert [depth["name"] for depth in found["depths"]] == [
        *(f"block {number}" for number in range(1, 6)), "FC1", "FC2",
    ]  # fmt: skip
    best = next(depth for depth in found["depths"] if depth["name"] == found["best"])
    assert best["error"] == min(depth["error"] for depth in found["depths"])
    assert best["interval"][0] <= best["accuracy"] <= best["interval"][1]
    assert [point["images"] for point in found["learning_curve"]] == [3, 7, 15]
    assert found["recommendation"]["command"] == command
    assert found["majority"] == pytest.approx(1 / 3)
    assert found["suspects"]["files"][0]["file"] == "train/red/wrong.png"

    page = Path("p.html").read_text()
    assert page.count("<img") == 2 + 4  # plots; the suspect and its neighbours
    assert "train/red/wrong.png" in page
    rows = list(csv.DictReader(Path("s.csv").read_text().splitlines()))
    assert [row["file"] for row in rows] == ["train/red/wrong.png"]


def test_check_data_looks_for_wrong_labels_too_and_train_leaves_them_out(
    data: Path, vgg19: Vgg19, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(data / "train/blue/0000.png", data / "train/blue/copy.png")
    network = ("--weights", "none", "--image-size", "32")
    arguments = ("check-data", data.name, "--labels", *network, "--suspects", "s.csv")
    assert vgg19(*arguments) == 0
    captured = capsys.readouterr()
    assert "labels that the other images contradict: 1 of 31" in captured.out
    assert "2 copies or images of groups are left out together with their like" in captured.out
    excluding = ("probe", "--data", data.name, *OPTIONS, "--exclude", "s.csv")
    assert vgg19(*excluding) == 0
    out = capsys.readouterr().out
    assert "s.csv excludes 1 of 37 images" in out
    assert "labels that the other images contradict: 0 of 30" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("probe", "--data", "nothing"), "data nothing does not exist"),
        (("probe", "--data", "a set", "--json", "no/where.json"), "no/where.json can't be written"),
        (("check-data", "a set", "--suspects", "s.csv"), "are for --labels"),
        (("check-data", "a set", "--weights", "none"), "are for --labels"),
    ],
)
def test_mistakes_are_told_before_the_work(
    data: Path,
    vgg19: Vgg19,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    words: str,
) -> None:
    assert vgg19(*arguments) == 1
    captured = capsys.readouterr()
    assert words in captured.err
    assert not captured.out
