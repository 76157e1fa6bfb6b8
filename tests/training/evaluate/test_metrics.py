from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from models.bundle.metrics import confusion_matrix as read_confusion_matrix
from training.evaluate.metrics import classification_metrics


def test_by_hand() -> None:
    # Predicted a, a, b, b for the true labels a, b, b, b; class c doesn't occur.
    logits = torch.tensor([[2.0, 0, 0], [2, 0, 0], [0, 2, 0], [0, 2, 0]])
    metrics = classification_metrics(logits, torch.tensor([0, 1, 1, 1]), ("a", "b", "c"))

    right = math.log(math.exp(2) + 2) - 2
    wrong = math.log(math.exp(2) + 2)
    assert metrics["images"] == 4
    assert metrics["accuracy"] == 0.75
    assert metrics["loss"] == pytest.approx((3 * right + wrong) / 4)
    assert metrics["top5_accuracy"] == 1.0
    assert metrics["macro_f1"] == pytest.approx((2 / 3 + 0.8) / 2)
    assert metrics["confusion"] == {"true": [0, 1, 1], "predicted": [0, 0, 1], "images": [1, 1, 2]}
    confidence = math.exp(2) / (math.exp(2) + 2)
    assert metrics["expected_calibration_error"] == pytest.approx(abs(0.75 - confidence), abs=1e-6)
    assert metrics["per_class"] == {
        "label": ["a", "b", "c"],
        "precision": [0.5, 1.0, 0.0],
        "recall": pytest.approx([1.0, 2 / 3, 0.0]),
        "f1": pytest.approx([2 / 3, 0.8, 0.0]),
        "support": [1, 3, 0],
    }


def test_equal_to_scikit_learns() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(200, 7, generator=generator)
    targets = torch.randint(0, 6, (200,), generator=generator)  # class 6 never occurs
    metrics = classification_metrics(logits, targets, tuple("abcdefg"))
    predicted = logits.argmax(dim=1)
    scores = precision_recall_fscore_support(
        targets, predicted, labels=list(range(7)), zero_division=0.0
    )
    for name, expected in zip(("precision", "recall", "f1", "support"), scores, strict=True):
        assert metrics["per_class"][name] == pytest.approx(expected.tolist()), name
    matrix = confusion_matrix(targets, predicted, labels=list(range(7)))
    assert read_confusion_matrix(metrics).tolist() == matrix.tolist()


def test_top_five_of_many() -> None:
    logits = torch.arange(8.0).repeat(3, 1)
    metrics = classification_metrics(logits, torch.tensor([7, 3, 2]), tuple("abcdefgh"))
    assert (metrics["accuracy"], metrics["top5_accuracy"]) == pytest.approx((1 / 3, 2 / 3))
