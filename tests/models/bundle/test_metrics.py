from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from models.bundle.metrics import ClassScores, class_scores, confusion_matrix, weaknesses
from models.files import json_text
from training.evaluate.metrics import classification_metrics

LABELS = ("daisy", "rose", "tulip")


def held_out(matrix: list[list[int]], labels: tuple[str, ...] = LABELS) -> dict[str, Any]:
    """As training writes it, of images that came to this confusion matrix."""
    counts = torch.tensor(matrix).flatten()
    pairs = torch.arange(len(counts)).repeat_interleave(counts)
    targets, predicted = pairs // len(labels), pairs % len(labels)
    logits = torch.nn.functional.one_hot(predicted, len(labels)).float()
    metrics = classification_metrics(logits, targets, labels)
    read: dict[str, Any] = json.loads(json_text(metrics))
    return read


def former(matrix: list[list[int]], labels: tuple[str, ...] = LABELS) -> dict[str, Any]:
    """The same as earlier versions wrote it."""
    metrics = held_out(matrix, labels)
    columns = metrics["per_class"]
    names = ("precision", "recall", "f1", "support")
    return metrics | {
        "confusion": matrix,
        "per_class": {
            label: {name: columns[name][i] for name in names} for i, label in enumerate(labels)
        },
    }


@pytest.mark.parametrize(
    "labels",
    [LABELS, ("label", "precision", "support"), ("a\nb", "'", "\u00e9"), ("0", "1", "2")],
)
@pytest.mark.parametrize(
    "matrix",
    [
        [[5, 0, 0], [0, 5, 0], [0, 0, 5]],
        [[1, 2, 3], [4, 5, 6], [7, 8, 9]],
        [[0, 2, 0], [0, 1, 1], [0, 0, 0]],
    ],
)
def test_both_forms_are_read_alike(matrix: list[list[int]], labels: tuple[str, ...]) -> None:
    new, old = held_out(matrix, labels), former(matrix, labels)
    assert confusion_matrix(new).tolist() == confusion_matrix(old).tolist() == matrix
    assert class_scores(new) == class_scores(old)
    assert [row.label for row in class_scores(new)] == list(labels)
    assert [row.support for row in class_scores(new)] == np.sum(matrix, axis=1).tolist()
    assert weaknesses(new) == weaknesses(old)


def test_scores_by_hand() -> None:
    rows = class_scores(held_out([[1, 0, 0], [1, 2, 0], [0, 0, 0]]))
    assert rows[0] == ClassScores("daisy", 0.5, 1.0, pytest.approx(2 / 3), 1)  # type: ignore[arg-type]
    assert rows[2] == ClassScores("tulip", 0.0, 0.0, 0.0, 0)


def test_a_thousand_classes_are_less_than_a_megabyte() -> None:
    """A row to each class and a line to each pair made 13.5 MB of 1,100."""
    generator = torch.Generator().manual_seed(0)
    labels = tuple(f"a class with a name of usual length {number}" for number in range(1100))
    targets = torch.arange(1100).repeat(8)
    metrics = classification_metrics(
        torch.randn(len(targets), 1100, generator=generator), targets, labels
    )
    text = json_text({"best_epoch": 3, "held_out": metrics})
    assert len(text) < 4e5
    assert json.loads(text)["held_out"] == metrics
    assert confusion_matrix(json.loads(text)["held_out"]).sum() == 8800


@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        ([[5, 0, 0], [0, 5, 0], [0, 0, 5]], []),
        ([[3, 1, 1], [1, 3, 1], [1, 1, 3]], []),
        # Always the largest class.
        ([[8, 0, 0], [1, 0, 0], [1, 0, 0]], ["always answering 'daisy': 80.0%", "'rose', 'tulip'"]),
        # As bad as that, by another way, and worse.
        ([[3, 1, 1], [1, 1, 0], [1, 0, 1]], ["always answering 'daisy': 55.6%"]),
        ([[0, 5, 0], [5, 0, 0], [0, 0, 1]], ["always answering 'daisy': 9.1%"]),
        # A class that is never answered, though most is right.
        ([[9, 0, 0], [0, 9, 0], [1, 1, 0]], ["it never answers 'tulip', though"]),
        # Never answered, and none was there: nothing is known of it.
        ([[9, 0, 0], [0, 9, 0], [0, 0, 0]], []),
    ],
)
def test_what_speaks_against_a_model(matrix: list[list[int]], words: list[str]) -> None:
    found = weaknesses(held_out(matrix))
    assert len(found) == len(words)
    for line, word in zip(found, words, strict=True):
        assert word in line


def test_many_classes_are_not_all_spelt_out() -> None:
    labels = tuple(f"c{number}" for number in range(40))
    matrix = np.diag(np.r_[np.full(30, 5), np.zeros(10, int)])
    matrix[30:, 0] = 1
    (line,) = weaknesses(held_out(matrix.tolist(), labels))
    assert line.startswith("it never answers 'c30', 'c31', 'c32', 'c33', 'c34' and 5 more classes,")


@pytest.mark.parametrize("content", [{"accuracy": 0.5, "images": 3}, {"images": 0, "accuracy": 0}])
def test_metrics_that_say_nothing_of_classes(content: dict[str, Any]) -> None:
    assert class_scores(content) == []
    assert weaknesses(content) == []
