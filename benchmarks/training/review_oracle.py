"""Orders that only somebody could have who knows all labels, and the rule that guesses them.

Where the head is a ridge regression, what one label more would do to every prediction is a product:
with B the inverse of X^T X + penalty, a label y of an image x adds (z^T B x) (y - W^T x) / (1 + x^T
B x) to the scores of an image z. So all images that might be labelled next can be tried.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmarks.training.review_trial import BATCH, Labels, Order, Trial
from review.fit import Fit
from review.order import first_penalty, most_valuable, uncertainty

Floats = NDArray[np.float64]

# Of the intercept, which the fit doesn't penalise.
_FREE = 1e-6
# Candidates at once: their scores for all other images are in memory.
_TRIED = 64
# A margin that is enough for an image that is right, as a score is 0 or 1.
_ENOUGH = 0.5
# Expected errors are computed for so many candidates, on so many images, to take seconds.
_CANDIDATES, _IMAGES = 100, 300


class _Ridge:
    """A fit to which labels are added one by one. `features`: float64[N,q + 1], the last 1."""

    def __init__(self, features: Floats, rows: list[int], targets: Floats, penalty: float) -> None:
        penalties = np.full(features.shape[1], penalty)
        penalties[-1] = _FREE
        self.inverse = np.linalg.inv(features[rows].T @ features[rows] + np.diag(penalties))
        self.weight = self.inverse @ (features[rows].T @ targets)

    def add(self, row: Floats, target: Floats) -> None:
        spread = self.inverse @ row
        share = 1 + float(row @ spread)
        self.weight += np.outer(spread, target - row @ self.weight) / share
        self.inverse -= np.outer(spread, spread) / share

    def influence(self, rows: Floats, on: Floats) -> Floats:
        """float64[V,M]: by how much a residual of 1 of each of the rows would move a score."""
        spread = self.inverse @ rows.T
        found: Floats = (on @ spread) / (1 + np.einsum("ij,ji->i", rows, spread))
        return found


def oracle(trial: Trial) -> Order:
    """Greedy: the label that best serves the images that judge, whose labels it knows as well."""
    classes = sorted({*trial.truth, *trial.judged})
    targets = np.eye(len(classes))[[classes.index(label) for label in trial.truth]]
    judged = np.array([classes.index(label) for label in trial.judged])

    def order(labels: Labels, fit: Fit | None) -> list[int]:
        depth, chosen = trial.depth(fit), sorted(labels)
        space = trial.spaces[depth].coordinates
        features, on = _with_one(space), _with_one(trial.features[depth])
        penalty = fit.penalty if fit else first_penalty(space)
        ridge = _Ridge(features, chosen, targets[chosen], penalty)
        for _ in range(BATCH):
            rest = np.setdiff1d(np.arange(len(features)), chosen)
            if not len(rest):
                break
            residuals = targets[rest] - features[rest] @ ridge.weight
            scores, influence = on @ ridge.weight, ridge.influence(features[rest], on)
            best = int(rest[int(np.argmax(_served(scores, influence, residuals, judged)))])
            ridge.add(features[best], targets[best])
            chosen.append(best)
        return chosen[len(labels) :]

    return order


def expected_error(trial: Trial) -> Order:
    """Roy & McCallum 2001: the label after which the fit expects the fewest errors, whatever it is,
    each as likely as the fit holds it to be."""

    def order(labels: Labels, fit: Fit | None) -> list[int]:
        rest, space = trial.rest(labels), trial.spaces[trial.depth(fit)].coordinates
        known = np.array(sorted(labels), np.int64)
        doubt = uncertainty(fit.probabilities) if fit else np.ones(len(space))
        penalty = fit.penalty if fit else first_penalty(space)
        count = _CANDIDATES if fit else BATCH
        candidates = most_valuable(space, known, rest, doubt, penalty=penalty, count=count)
        if fit is None:
            return candidates
        features = _with_one(space)
        targets = np.eye(len(fit.labels))[[fit.labels.index(labels[row]) for row in known.tolist()]]
        ridge = _Ridge(features, known.tolist(), targets, penalty)
        scale = float(np.linalg.norm(fit.weight) / np.linalg.norm(ridge.weight[:-1]))
        on = features[np.random.default_rng([trial.seed, len(labels)]).permutation(rest)[:_IMAGES]]
        chosen: list[int] = []
        for _ in range(BATCH):
            left = [row for row in candidates if row not in chosen]
            if not left:
                break
            errors, shares = _expected(ridge, features[left], on, scale)
            best = int(errors.argmin())
            ridge.add(features[left[best]], shares[best])  # as if what is expected were said
            chosen.append(left[best])
        return chosen

    return order


def _served(
    scores: Floats, influence: Floats, residuals: Floats, truth: NDArray[np.int64]
) -> Floats:
    """float64[M]: how near to being right the images come by each of the labels, on average."""
    served = np.empty(len(residuals))
    before, moves, misses = (one.astype(np.float32) for one in (scores, influence, residuals))
    own = truth[:, None, None]
    for start in range(0, len(misses), _TRIED):
        part = slice(start, start + _TRIED)
        new = before[:, None, :] + moves[:, part, None] * misses[None, part, :]
        right = np.take_along_axis(new, own, 2)[..., 0]
        np.put_along_axis(new, own, -np.inf, 2)
        served[part] = np.minimum(right - new.max(axis=2), _ENOUGH).mean(axis=0)
    return served


def _expected(ridge: _Ridge, rows: Floats, on: Floats, scale: float) -> tuple[Floats, Floats]:
    """Expected errors after a label of each of the rows, float64[M], and their classes' shares,
    float64[M,C]."""
    scores, own = on @ ridge.weight, rows @ ridge.weight
    shares = _softmax(scale * own)
    logits, influence = (
        (scale * one).astype(np.float32) for one in (scores, ridge.influence(rows, on))
    )
    errors = np.zeros(len(rows))
    for place in range(own.shape[1]):
        residuals = (np.eye(own.shape[1])[place] - own).astype(np.float32)
        new = logits[:, None, :] + influence[:, :, None] * residuals[None]
        # 1 less the largest share: of a softmax, 1 / the sum of powers below the largest logit.
        new -= new.max(axis=2, keepdims=True)
        errors += shares[:, place] * (1 - 1 / np.exp(new).sum(axis=2)).sum(axis=0)
    return errors, shares


def _softmax(logits: Floats) -> Floats:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    found: Floats = powers / powers.sum(axis=-1, keepdims=True)
    return found


def _with_one(features: NDArray[np.floating]) -> Floats:
    """float[N,q] -> float64[N,q + 1], for the intercept."""
    ones = np.ones((len(features), 1))
    return np.concatenate([features.astype(np.float64), ones], axis=1)
