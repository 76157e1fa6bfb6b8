from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestNeighbors

from models.linear import ridge
from models.linear.predictions import MARGIN, left_out
from models.linear.ridge import Design, fit
from training.data.checks import Sample
from training.data.image_data import ImageData
from training.probe.suspects import find_suspects, nearest, write_suspects

ROOT = Path("digits")


def as_data(targets: np.ndarray[tuple[int], np.dtype[np.int64]]) -> ImageData:
    samples = [
        Sample(ROOT / f"{label}" / f"{row:04}.png", str(label), "train", "")
        for row, label in enumerate(targets)
    ]
    return ImageData(ROOT, tuple(map(str, range(10))), tuple(samples), ())


@pytest.mark.parametrize("seed", range(3))
def test_shuffled_labels_are_found_in_the_digits(seed: int) -> None:
    """Of pixels and their products: not as good as a network's features, and good enough."""
    digits = load_digits()
    rng = np.random.default_rng(seed)
    wrong = rng.choice(len(digits.target), round(0.05 * len(digits.target)), replace=False)
    targets = digits.target.astype(np.int64)
    targets[wrong] = (targets[wrong] + rng.integers(1, 10, len(wrong))) % 10
    pixels = digits.data / 16
    features = np.tanh(pixels @ rng.normal(0, 0.5, (64, 700)))
    design = Design(features, targets, 10)
    suspects = find_suspects(as_data(targets), design, left_out(fit(design)), shown=5)
    rows = [int(suspect.path.stem) for suspect in suspects]
    found = len(set(rows) & set(wrong.tolist()))
    assert found / len(wrong) >= 0.95
    assert found / len(rows) >= 0.80
    assert [suspect.margin for suspect in suspects] == sorted(
        (suspect.margin for suspect in suspects), reverse=True
    )
    assert min(suspect.margin for suspect in suspects) > MARGIN
    truth = [
        suspect.suggested == str(digits.target[row])
        for suspect, row in zip(suspects, rows, strict=True)
    ]
    assert sum(truth) / len(truth) >= 0.80
    assert [len(suspect.nearest) for suspect in suspects[:7]] == [3] * 5 + [0] * 2
    assert all(one.file != suspect.file for suspect in suspects for one in suspect.nearest)


def test_the_nearest_are_scikit_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ridge, "BLOCK", 7)
    features = np.random.default_rng(0).normal(5, 1, (40, 6)).astype(np.float32)
    rows = np.array([3, 39, 0])
    found = nearest(Design(features, np.zeros(40, np.int64), 1), rows, 4)
    expected = NearestNeighbors(n_neighbors=5).fit(features).kneighbors(features[rows])[1]
    assert found == expected[:, 1:].tolist()


def test_of_few_images_all_others_are_near() -> None:
    features = np.array([[0.0], [1.0], [5.0]])
    assert nearest(Design(features, np.array([0, 1, 0]), 2), np.array([2]), 3) == [[1, 0]]


def test_the_table_has_a_row_for_each(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    targets = np.repeat([0, 1], 20)
    design = Design(np.eye(10)[targets] + rng.normal(0, 0.05, (40, 10)), targets, 10)
    targets[3] = 1
    suspects = find_suspects(as_data(targets), design, left_out(fit(design)), shown=5)
    write_suspects(suspects, tmp_path / "suspects.csv")
    rows = list(csv.DictReader((tmp_path / "suspects.csv").read_text().splitlines()))
    assert [(row["file"], row["label"], row["suggested"]) for row in rows] == [
        ("1/0003.png", "1", "0")
    ]
    assert float(rows[0]["margin"]) > MARGIN
