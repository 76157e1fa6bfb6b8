"""Numbers that judge a classifier, from logits and true labels.

Precision, recall and F1 are read off the confusion matrix here: importing scikit-learn for them
takes 1.5 s, as long as an epoch from cached features. A test compares them with scikit-learn's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from models.bundle.metrics import ClassScores, class_columns, confusion_columns
from training.evaluate.calibration import expected_calibration_error, reliability


def quick_metrics(logits: Tensor, targets: Tensor) -> dict[str, float]:
    """What an epoch is judged by: `loss` (mean cross-entropy, nats) and `accuracy` (0..1)."""
    return {
        "loss": nn.functional.cross_entropy(logits, targets).item(),
        "accuracy": (logits.argmax(dim=1) == targets).double().mean().item(),
    }


def classification_metrics(
    logits: Tensor, targets: Tensor, labels: Sequence[str]
) -> dict[str, Any]:
    """Loss, accuracy, calibration, and precision, recall and F1 of each class.

    Args:
        logits: float32[N,C], divided by the temperature. targets: int64[N]. labels: C names.

    Returns:
        JSON-ready: `images`, `loss` (mean cross-entropy, nats), `accuracy` and `top5_accuracy`
        (0..1), `macro_f1` (mean over the classes that occur), `expected_calibration_error`,
        `reliability`, and `confusion` and `per_class` as `models.bundle.metrics` reads them.
    """
    predicted = logits.argmax(dim=1)
    top5 = logits.topk(min(5, len(labels)), dim=1).indices
    confusion = confusion_matrix(targets, predicted, len(labels))
    right, support = confusion.diagonal().double(), confusion.sum(dim=1)
    precision = right / confusion.sum(dim=0).clamp_min(1)  # without a case: 0
    recall = right / support.clamp_min(1)
    f1 = 2 * right / (support + confusion.sum(dim=0)).clamp_min(1)
    columns = (column.tolist() for column in (precision, recall, f1, support))
    bins = reliability(logits.softmax(dim=1), targets)
    return {
        "images": len(targets),
        **quick_metrics(logits, targets),
        "top5_accuracy": (top5 == targets[:, None]).any(dim=1).double().mean().item(),
        "macro_f1": float(f1[support > 0].mean()),
        "expected_calibration_error": expected_calibration_error(bins),
        "reliability": bins,
        "confusion": confusion_columns(confusion.numpy()),
        "per_class": class_columns(list(map(ClassScores, labels, *columns))),
    }


def confusion_matrix(targets: Tensor, predicted: Tensor, num_classes: int) -> Tensor:
    """int64[C,C], rows: true class, columns: predicted class."""
    pairs = targets * num_classes + predicted
    return torch.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)
