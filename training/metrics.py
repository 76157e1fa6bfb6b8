"""Numbers that judge a classifier, from logits and true labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sklearn.metrics import precision_recall_fscore_support
from torch import Tensor, nn


def classification_metrics(
    logits: Tensor, targets: Tensor, labels: Sequence[str]
) -> dict[str, Any]:
    """Loss, accuracy and per-class precision, recall and F1.

    Args:
        logits: float32[N,C]. targets: int64[N]. labels: C names.

    Returns:
        JSON-ready: `images`, `loss` (mean cross-entropy, nats), `accuracy` (0..1), `per_class`.
    """
    predicted = logits.argmax(dim=1)
    precision, recall, f1, support = precision_recall_fscore_support(
        targets.numpy(), predicted.numpy(), labels=range(len(labels)), zero_division=0.0
    )
    return {
        "images": len(targets),
        "loss": nn.functional.cross_entropy(logits, targets).item(),
        "accuracy": (predicted == targets).double().mean().item(),
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
