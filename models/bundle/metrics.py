"""What `metrics.json` says of held-out images, class by class.

Written as columns: a row for each class, or a table of all pairs of classes, is 13 MB of JSON at
1,100 classes. Files from before are read all the same: they hold an object for each class, and the
confusion matrix as rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

_NAMED = 5  # labels of a longer list that are spelt out


@dataclass(frozen=True)
class ClassScores:
    """Of one class: precision, recall and F1 (0..1, 0 without a case), and how many images."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int


def class_columns(scores: Sequence[ClassScores]) -> dict[str, list[Any]]:
    """What `per_class` holds: for each number a list, in the order of the classes."""
    return {
        "label": [row.label for row in scores],
        "precision": [row.precision for row in scores],
        "recall": [row.recall for row in scores],
        "f1": [row.f1 for row in scores],
        "support": [row.support for row in scores],
    }


def class_scores(held_out: dict[str, Any]) -> list[ClassScores]:
    """Of every class, in their order; none where the file doesn't say."""
    per_class = held_out.get("per_class", {})
    if not all(isinstance(column, list) for column in per_class.values()):
        return [ClassScores(label, **scores) for label, scores in per_class.items()]
    names = [field.name for field in fields(ClassScores)]
    rows = zip(*(per_class.get(name, ()) for name in names), strict=True)
    return [ClassScores(*row) for row in rows]


def confusion_columns(matrix: NDArray[np.int64]) -> dict[str, list[int]]:
    """What `confusion` holds: of int64[C,C], each pair of classes that occurs, and how often."""
    true, predicted = np.nonzero(matrix)
    return {
        "true": true.tolist(),
        "predicted": predicted.tolist(),
        "images": matrix[true, predicted].tolist(),
    }


def confusion_matrix(held_out: dict[str, Any]) -> NDArray[np.int64]:
    """int64[C,C], rows: true class, columns: predicted class."""
    confusion = held_out["confusion"]
    if isinstance(confusion, list):
        return np.array(confusion, np.int64)
    classes = len(class_scores(held_out))
    matrix = np.zeros((classes, classes), np.int64)
    matrix[confusion["true"], confusion["predicted"]] = confusion["images"]
    return matrix


def weaknesses(held_out: dict[str, Any]) -> list[str]:
    """What speaks against using a model at all, in a clause each, such as "it never answers 'a'";
    none where the file doesn't say enough."""
    scores = class_scores(held_out)
    if not scores or "confusion" not in held_out:
        return []
    found = []
    largest = max(scores, key=lambda row: row.support)
    share = largest.support / held_out["images"]
    if held_out["accuracy"] <= share:
        found.append(
            f"it is no better than always answering '{largest.label}': "
            f"{held_out['accuracy']:.1%} of the held-out images are right, and {share:.1%} are "
            f"'{largest.label}'"
        )
    answered = confusion_matrix(held_out).sum(axis=0)
    never = [
        row.label for row, count in zip(scores, answered, strict=True) if row.support and not count
    ]
    if never:
        found.append(f"it never answers {_list(never)}, though held-out images have that label")
    return found


def _list(labels: Sequence[str]) -> str:
    named = ", ".join(f"'{label}'" for label in labels[:_NAMED])
    more = len(labels) - _NAMED
    return f"{named} and {more} more classes" if more > 0 else named
