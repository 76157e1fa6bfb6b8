from __future__ import annotations

import csv
import json
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.captured import captured_images
from review.desk import NotNow
from review.journal import Decision, Journal
from review.session import Session
from review.workbench import LabelWeight
from testing.images import coloured_pixels, encode, write_image_folder
from training.loop.config_file import load_config
from training.reporter import SilentReporter
from training.review import workbench
from training.review.jobs import Jobs
from training.review.pool import NetworkPool, PoolError, load_pool
from training.review.workbench import LocalWorkbench

pytestmark = pytest.mark.usefixtures("thin_network")


@pytest.fixture
def places(tmp_path: Path) -> Path:
    """Labelled images with a split, new ones, and captured ones; some of them twice."""
    write_image_folder(tmp_path / "data/train", {"blue": 6, "red": 6})
    write_image_folder(tmp_path / "data/val", {"blue": 1, "red": 1}, first_seed=50)
    write_image_folder(tmp_path / "new", {"green": 3}, first_seed=100)
    shutil.copy(tmp_path / "data/train/blue/0000.png", tmp_path / "new/again.png")
    shutil.copy(tmp_path / "data/val/blue/0050.png", tmp_path / "new/judges.png")
    captured = tmp_path / "captured"
    captured.mkdir()
    for number, label in enumerate((None, "red")):
        (captured / f"{number}.img").write_bytes(encode(coloured_pixels(200 + number, "red")))
        record = {"predictions": [{"label": "blue", "probability": 0.6}]}
        (captured / f"{number}.json").write_text(json.dumps(record))
        if label:
            (captured / f"{number}.label.json").write_text(json.dumps({"label": label}))
    return tmp_path


def load(places: Path, **sources: Any) -> NetworkPool:
    values = {
        "weights": "none", "image_size": 32, "mixed_precision": "no", "output": "run",
        "data": places / "data", "cache_dir": places / "cache",
    }  # fmt: skip
    options: dict[str, Any] = {
        "labelled": True,
        "folders": [places / "new"],
        "capture": str(places / "captured"),
    }
    return load_pool(load_config(None, values), SilentReporter(), **options | sources)


def test_every_source_and_each_image_once(places: Path) -> None:
    pool = load(places)
    found = [(item.source, item.given, item.said) for item in pool.items]
    assert found == [
        *[("data", "blue", None)] * 6, *[("data", "red", None)] * 6,
        *[("folder", None, None)] * 3, ("capture", None, "blue"), ("capture", "red", "blue"),
    ]  # fmt: skip
    assert {len(values) for values in pool.features.values()} == {17}
    alone = load(places, folders=[], capture=None)
    for depth, values in alone.features.items():
        np.testing.assert_array_equal(values, pool.features[depth][:12])


def test_a_heat_map_at_every_depth_and_a_table_that_train_reads(places: Path) -> None:
    pool = load(places)
    jobs = Jobs({}, places / "labels.csv", places / "jobs.log")
    session = Session(
        pool, Journal(places / "decisions.jsonl"), workbench=LocalWorkbench(pool, jobs)
    )
    image = pool.items[0].image
    fit = session._learned.fit
    assert fit is not None
    maps = []
    for label in fit.labels:  # what speaks for one of two speaks against the other
        with suppress(NotNow):
            maps.append(session.heat_map(image, label))
    assert maps
    assert maps[0].startswith(b"\x89PNG")
    rows = list(csv.DictReader(session.export("labels")[1].decode().splitlines()))
    assert len(rows) == 2 + 12 + 1
    assert {(row["split"], row["label"]) for row in rows} == {
        (split, label) for split in ("train", "val") for label in ("blue", "red")
    }
    session.close()


def test_a_heat_map_for_which_there_is_no_memory_says_so(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = load(places)
    jobs = Jobs({}, places / "labels.csv", places / "jobs.log")
    depth = next(iter(pool.depths))
    head = LabelWeight(depth, np.zeros(1, np.float32))

    def full(*_: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: not enough memory\nException raised from ...")

    monkeypatch.setattr(workbench, "heat_map", full)
    with pytest.raises(NotNow, match="can't be made: DefaultCPUAllocator: not enough memory$"):
        LocalWorkbench(pool, jobs).heat_map(pool.items[0], "red", head)


def test_labels_of_captured_images_are_laid_beside_them(places: Path) -> None:
    pool, captured = load(places), places / "captured"
    ran = {"redeploy": lambda: [[sys.executable, "-c", "print('retrained')"]]}
    jobs = Jobs(ran, places / "labels.csv", places / "jobs.log")
    workbench = LocalWorkbench(pool, jobs, (places / "captured.csv", str(captured)))
    session = Session(pool, Journal(places / "decisions.jsonl"), workbench=workbench)
    session.decide([Decision(pool.items[15].image, "label", "Ann", "red")])
    session.start("redeploy")
    jobs.wait()
    session.close()
    assert [one.label for one in captured_images(str(captured))] == ["red", "red"]


def test_without_labels_there_are_folders(places: Path) -> None:
    pool = load(places, labelled=False, capture=None)
    assert {item.name for item in pool.items} == {
        "again.png", "judges.png", *(f"green/010{number}.png" for number in range(3)),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("sources", "words"),
    [
        ({"folders": []}, "give --data, --folder or --capture"),
        ({"folders": [Path("nowhere")]}, "nowhere is not a folder"),
    ],
)
def test_nothing_to_review_is_told(places: Path, sources: Any, words: str) -> None:
    with pytest.raises(PoolError, match=words):
        load(places, labelled=False, capture=None, **sources)
