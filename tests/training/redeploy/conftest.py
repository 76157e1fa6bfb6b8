"""A folder with images and a store, where jobs run with the learner of `tests.redeploy_stub`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from sklearn.datasets import load_digits

from cli import bento as building
from tests import redeploy_stub
from training.redeploy import challenger
from training.redeploy.config import load_redeploy_config
from training.redeploy.job import redeploy
from training.redeploy.job_state import JobState, finished_jobs
from training.redeploy.outcome import Outcome
from training.redeploy.promotion import Builder
from training.reporter import SilentReporter

# The stub's softmax isn't calibrated, and times of a loaded machine say nothing.
GATE = {
    "min_held_out": 20,
    "max_calibration_error": None,
    "max_latency_ratio": None,
    "min_interval_low": -0.2,
}
LENIENT = GATE | {
    "min_difference": -1,
    "min_known_difference": None,
    "max_class_drop": None,
    "significance": None,
}


def write_digits(root: Path, first: int, last: int, *, poisoned: bool = False) -> None:
    digits = load_digits()
    labels = digits.target[first:last]
    if poisoned:  # every 0 is said to be a 1, and so on: worse than chance
        labels = (labels + 1) % 10
    for number, label in zip(range(first, last), labels, strict=True):
        path = root / str(label) / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.round(digits.images[number] * 15.9).astype(np.uint8)).save(path)


class Place:
    """A folder with images and a configuration, and a store."""

    def __init__(self, path: Path, home: Path) -> None:
        self.path, self.home = path, home
        self.builder: Builder = building
        write_digits(path / "base", 0, 150)
        write_digits(path / "new", 150, 151)
        self.configure()

    def configure(self, **changes: Any) -> None:
        train = {"weights": "none", "strategy": "full", "image_size": 32, "resize_size": 32}
        config = {
            "data": [str(self.path / "base"), str(self.path / "new")],
            "state": str(self.path / "state"),
            "train": train,
            "test_fraction": 0.4,
            "gate": LENIENT,
            "suspects": "off",
        }
        text = yaml.safe_dump(config | changes)
        (self.path / "redeploy.yaml").write_text(text)

    def add(self, first: int, last: int, *, poisoned: bool = False) -> None:
        write_digits(self.path / "new", first, last, poisoned=poisoned)

    def run(self, reporter: SilentReporter | None = None, **options: bool) -> Outcome:
        config = load_redeploy_config(self.path / "redeploy.yaml")
        return redeploy(config, reporter or SilentReporter(), self.builder, **options)

    def run_command(self, kill: str = "") -> redeploy_stub.Result:
        """As a process of its own, which may be killed."""
        return redeploy_stub.run(self.path / "redeploy.yaml", self.home, self.path / "out", kill)

    def jobs(self) -> list[JobState]:
        return finished_jobs(self.path / "state")


@pytest.fixture
def place(tmp_path: Path, store_home: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr(challenger, "train", redeploy_stub.fine_tune)
    monkeypatch.setattr(challenger, "export_run", redeploy_stub.export_run)
    return Place(tmp_path, store_home)
