"""The head fitted again in closed form to the labels there are, and what that changed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.linear.head_fit import scaled_head
from models.linear.predictions import MARGIN, Predictions, left_out
from models.linear.ridge import Design, Integers, fit
from review.space import Space


@dataclass(frozen=True)
class Fit:
    """A head, and what it says.

    Args:
        labels: sorted; their order is the class index.
        depth: name of the one whose features it reads.
        rows: int64[L], the labelled images, sorted. predictions: theirs, each by the others.
        probabilities: float32[N,C], of all images. Those of labelled ones are not to be judged by:
            the head was fitted to them.
        weight: float32[C,q], on the coordinates of the space. bias: float32[C].
        penalty: of the ridge regression, absolute.
    """

    labels: tuple[str, ...]
    depth: str
    rows: Integers
    predictions: Predictions
    probabilities: NDArray[np.float32]
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    penalty: float
    seconds: float

    def suspects(self) -> list[tuple[int, str, float]]:
        """Labelled images that the others contradict: row, what they say, and by what margin; the
        worst first (see `models.linear.predictions.MARGIN`)."""
        margin = self.predictions.margin
        order = np.argsort(-margin, kind="stable")
        return [
            (
                int(self.rows[place]),
                self.labels[int(self.predictions.suggested[place])],
                float(margin[place]),
            )
            for place in order[margin[order] > MARGIN]
        ]


@dataclass(frozen=True)
class Change:
    """What a batch of labels changed.

    Args:
        labels: how many there were, then and now.
        accuracy: by leaving one out, then and now, both of the images that had a label then. (Those
            that came since were asked for because they are hard.)
        flipped: images without a label of which the head now says something else.
        suspects: how many labels were contradicted, then and now; `gone` of them are no longer.
    """

    labels: tuple[int, int]
    accuracy: tuple[float, float]
    flipped: int
    suspects: tuple[int, int]
    gone: int


def can_fit(labelled: Mapping[int, str]) -> bool:
    """Whether there are two classes, and an image more."""
    return len(labelled) > 2 and len(set(labelled.values())) > 1


def fit_labels(labelled: Mapping[int, str], units: Integers, space: Space, depth: str) -> Fit:
    """Fit to these labels, which `can_fit` has found enough.

    Args:
        labelled: row -> label.
        units: int64[N], images that are left out together have the same number.
    """
    started = time.perf_counter()
    design, labels, rows = _design(labelled, units, space)
    ridge = fit(design)
    head = scaled_head(ridge)
    logits = space.coordinates @ head.weight.T + head.bias
    logits -= logits.max(axis=1, keepdims=True)
    shares = np.exp(logits)
    return Fit(
        labels=labels,
        depth=depth,
        rows=rows,
        predictions=left_out(ridge),
        probabilities=(shares / shares.sum(axis=1, keepdims=True)).astype(np.float32),
        weight=head.weight,
        bias=head.bias,
        penalty=ridge.penalty,
        seconds=time.perf_counter() - started,
    )


def best_depth(labelled: Mapping[int, str], units: Integers, spaces: Mapping[str, Space]) -> str:
    """The one with the smallest error of the leave-one-out predictions."""
    errors = {
        depth: left_out(fit(_design(labelled, units, space)[0])).error
        for depth, space in spaces.items()
    }
    return min(errors, key=errors.__getitem__)


def change(before: Fit, now: Fit) -> Change:
    """From one fit to the next."""
    unlabelled = np.setdiff1d(np.arange(len(now.probabilities)), now.rows)
    said = [
        np.array(one.labels)[one.probabilities[unlabelled].argmax(axis=1)] for one in (before, now)
    ]
    old, new = ({row for row, *_ in one.suspects()} for one in (before, now))
    return Change(
        labels=(len(before.rows), len(now.rows)),
        accuracy=(_accuracy(before, before.rows), _accuracy(now, before.rows)),
        flipped=int((said[0] != said[1]).sum()),
        suspects=(len(old), len(new)),
        gone=len(old - new),
    )


def _accuracy(fit: Fit, rows: Integers) -> float:
    """Of those of these images that it was fitted to, by leaving each out; 0 of none."""
    chosen = np.isin(fit.rows, rows)
    return float(fit.predictions.is_right[chosen].mean()) if chosen.any() else 0.0


def _design(
    labelled: Mapping[int, str], units: Integers, space: Space
) -> tuple[Design, tuple[str, ...], Integers]:
    rows = np.array(sorted(labelled), np.int64)
    labels = tuple(sorted(set(labelled.values())))
    index = {label: place for place, label in enumerate(labels)}
    targets = np.array([index[labelled[row]] for row in rows.tolist()], np.int64)
    own = units[rows]
    together = own if 1 < len(np.unique(own)) < len(own) else None
    return Design(space.coordinates[rows], targets, len(labels), together), labels, rows
