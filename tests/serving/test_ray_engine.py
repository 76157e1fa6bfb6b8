"""`vgg19 predict --engine ray` on a Ray of this machine, with two workers."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from tests.helpers import run_command, vgg19, write_image_folder, write_tiny_bundle

pytest.importorskip("ray", reason="the extra ray is not installed")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("ray")
    vgg19(place / "home", "register", str(write_tiny_bundle(place / "bundle")))
    vgg19(place / "home", "promote", "latest")
    return place / "home"


def read(table: Path) -> dict[str, dict[str, str]]:
    with table.open(newline="") as file:
        return {row["file"]: row for row in csv.DictReader(file)}


def test_the_same_rows_as_here_and_it_goes_on(home: Path, tmp_path: Path) -> None:
    images = write_image_folder(tmp_path / "images", {"blue": 20, "green": 25, "red": 15})
    (images / "red" / "text.jpg").write_text("no image")
    here, there = tmp_path / "here.csv", tmp_path / "there.csv"
    vgg19(home, "predict", str(images), "--output", str(here))

    # As an interrupted run leaves it: with one file done, and a row that tells so.
    done = next(iter(read(here)))
    version = next((home / "models" / "vgg19").glob("2026*")).name
    head = json.dumps({"model": version, "top_k": 3, "variant": "float32"})
    row = json.dumps({"file": done, "error": "from before"})
    (tmp_path / "there.csv.part").write_text(f"{head}\n{row}\n")

    result = run_command(
        "vgg19", "predict", str(images), "--output", str(there), "--engine", "ray",
        "--workers", "2", home=home, cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "going on: 1 of 61 are done" in result.stdout
    assert "61 images by vgg19:" in result.stdout
    assert "text.jpg: not an image" in result.stdout
    for noise in ("Traceback", "Warning", "INFO", "dashboard"):
        assert noise not in result.stdout + result.stderr
    expected, found = read(here), read(there)
    assert found.pop(done)["error"] == "from before"
    expected.pop(done)
    assert found == expected
    assert not (tmp_path / "there.csv.part").exists()


def test_a_cluster_that_is_not_there(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = write_image_folder(tmp_path / "images", {"blue": 1})
    monkeypatch.setenv("RAY_ADDRESS", "nonsense")
    result = run_command(
        "vgg19", "predict", str(images), "--output", str(tmp_path / "p.csv"), "--engine", "ray",
        home=home, cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("error: Ray can't be had at nonsense: ")
    assert "Traceback" not in result.stderr


def test_not_installed(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = write_image_folder(tmp_path / "images", {"blue": 1})
    (tmp_path / "without" / "ray").mkdir(parents=True)
    (tmp_path / "without" / "ray" / "__init__.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "without"))
    result = run_command(
        "vgg19", "predict", str(images), "--output", str(tmp_path / "p.csv"), "--engine", "ray",
        home=home, cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 1
    assert "error: Ray is not installed; install it with pip install" in result.stderr
