"""Orders in which images might be labelled, by their names in docs/review.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from benchmarks.training.review_oracle import expected_error, oracle
from benchmarks.training.review_trial import BATCH, Labels, Order, Trial
from review.fit import Fit
from review.order import first_penalty, most_valuable, uncertainty

Integers = NDArray[np.int64]

# Neighbours by which TypiClust tells how typical an image is (Hacohen et al. 2022).
_NEIGHBOURS = 20
# Of ProbCover's balls, the share whose images are all of one cluster (Yehuda et al. 2022).
_PURITY = 0.95
# Labels at most. Who tries every image for every label takes seconds for a batch.
_MOST, _MOST_OF_SLOW = 600, 250


@dataclass(frozen=True)
class Rule:
    """How to make an order for a trial, and after how many labels to end."""

    make: Callable[[Trial], Order]
    most: int = _MOST


def at_random(trial: Trial) -> Order:
    shuffled = np.random.default_rng(trial.seed).permutation(len(trial.truth)).tolist()
    return lambda labels, _: shuffled[len(labels) :][:BATCH]


def ours(trial: Trial, *, power: float = 1.0, batch: int = BATCH) -> Order:
    """That of a session.

    Args:
        power: of the doubt; 0: none.
        batch: labels between two fits.
    """

    def order(labels: Labels, fit: Fit | None) -> list[int]:
        space = trial.spaces[trial.depth(fit)].coordinates
        return most_valuable(
            space,
            np.array(sorted(labels), np.int64),
            trial.rest(labels),
            uncertainty(fit.probabilities) ** power if fit else np.ones(len(space)),
            penalty=fit.penalty if fit else first_penalty(space),
            count=batch,
        )

    return order


def smallest_margin(trial: Trial) -> Order:
    """From the first fit on."""
    before = ours(trial)

    def order(labels: Labels, fit: Fit | None) -> list[int]:
        if fit is None:
            return before(labels, fit)
        rest = trial.rest(labels)
        doubt = uncertainty(fit.probabilities)[rest]
        found: list[int] = rest[np.argsort(-doubt, kind="stable")[:BATCH]].tolist()
        return found

    return order


def typical(trial: Trial, count: int) -> Order:
    """The most typical image of each cluster for so many labels (TypiClust, arXiv:2202.02794), then
    ours."""
    after = ours(trial)

    def order(labels: Labels, fit: Fit | None) -> list[int]:
        if len(labels) >= count:
            return after(labels, fit)
        features = _unit(trial.spaces[trial.depth(fit)].coordinates)
        own = _clusters(features, len(labels) + BATCH, trial.seed)
        sizes = np.bincount(own)
        labelled = np.bincount(own[list(labels)], minlength=len(sizes))
        chosen = []
        for cluster in np.lexsort((-sizes, labelled))[:BATCH].tolist():
            rows = np.flatnonzero(own == cluster)
            free = [row for row in _most_typical_first(features, rows) if row not in labels]
            chosen += free[:1]
        return chosen or after(labels, fit)

    return order


def covering(trial: Trial, count: int) -> Order:
    """Images whose neighbourhoods cover most of the others for so many labels (ProbCover,
    arXiv:2205.11320), then ours."""
    after = ours(trial)
    features = _unit(trial.spaces[trial.depth(None)].coordinates)
    near = _neighbourhoods(features, _clusters(features, BATCH, trial.seed))

    def order(labels: Labels, fit: Fit | None) -> list[int]:
        if len(labels) >= count:
            return after(labels, fit)
        chosen: list[int] = []
        for _ in range(BATCH):
            taken = [*labels, *chosen]
            gain = (near & ~near[taken].any(axis=0)).sum(axis=1)
            gain[taken] = -1
            chosen.append(int(gain.argmax()))
        return chosen

    return order


RULES: Mapping[str, Rule] = {
    "random": Rule(at_random),
    "ours": Rule(ours),
    "oracle": Rule(oracle, _MOST_OF_SLOW),
    "margin": Rule(smallest_margin),
    "expected error": Rule(expected_error, _MOST_OF_SLOW),
    "typical 20": Rule(lambda trial: typical(trial, 20)),
    "covering 20": Rule(lambda trial: covering(trial, 20)),
    "batches of 5": Rule(lambda trial: ours(trial, batch=5)),
    "batches of 20": Rule(lambda trial: ours(trial, batch=20)),
    "no doubt": Rule(lambda trial: ours(trial, power=0)),
    "doubt^1.5": Rule(lambda trial: ours(trial, power=1.5)),
    "doubt^2": Rule(lambda trial: ours(trial, power=2)),
}


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32[N,q] -> the same, of length 1."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    found: NDArray[np.float32] = rows / np.maximum(lengths, 1e-12)
    return found


def _clusters(features: NDArray[np.float32], count: int, seed: int) -> Integers:
    found: Integers = KMeans(count, n_init=3, random_state=seed).fit_predict(features)
    return found


def _most_typical_first(features: NDArray[np.float32], rows: Integers) -> list[int]:
    """By their mean distance from their neighbours in the cluster."""
    distances = np.sort(_distances(features[rows]), axis=1)[:, 1 : _NEIGHBOURS + 1]
    order = np.argsort(distances.mean(axis=1) if distances.size else np.zeros(len(rows)))
    found: list[int] = rows[order].tolist()
    return found


def _neighbourhoods(features: NDArray[np.float32], own: Integers) -> NDArray[np.bool_]:
    """bool[N,N]: which images are as near as the largest radius allows at which the balls around
    them are pure."""
    distances = _distances(features)
    others = own[:, None] != own[None]
    nearest_other = np.where(others, distances, np.inf).min(axis=1)
    radius = np.quantile(nearest_other, 1 - _PURITY)
    found: NDArray[np.bool_] = distances < radius
    return found


def _distances(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32[N,q], of length 1 -> float32[N,N], Euclidean."""
    found: NDArray[np.float32] = np.sqrt(np.maximum(0, 2 - 2 * features @ features.T))
    return found
