"""Numbers that judge a classifier, from logits and true labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from torch import Tensor, nn

from training.calibration import expected_calibration_error, reliability


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
        `reliability`, `confusion` (rows: true, columns: predicted) and `per_class`.
    """
    predicted = logits.argmax(dim=1)
    top5 = logits.topk(min(5, len(labels)), dim=1).indices
    classes = range(len(labels))
    precision, recall, f1, support = precision_recall_fscore_support(
        targets.numpy(), predicted.numpy(), labels=classes, zero_division=0.0
    )
    bins = reliability(logits.softmax(dim=1), targets)
    return {
        "images": len(targets),
        **quick_metrics(logits, targets),
        "top5_accuracy": (top5 == targets[:, None]).any(dim=1).double().mean().item(),
        "macro_f1": float(f1[support > 0].mean()),
        "expected_calibration_error": expected_calibration_error(bins),
        "reliability": bins,
        "confusion": confusion_matrix(targets.numpy(), predicted.numpy(), labels=classes).tolist(),
        "per_class": {
            label: {
                "precision": float(precision[i]),
                "recall": float(recall[i]),
                "f1": float(f1[i]),
                "support": int(support[i]),
            }
            for i, label in enumerate(labels)
        },
    }
