"""Multi-class ridge regression in closed form, with exact leave-one-out predictions.

Targets are one-hot, the intercept is not penalised, and every penalty of a grid costs one
eigendecomposition together. With as many images as features or more, X^T X (p x p) is summed up in
blocks, so that memory doesn't depend on the number of images; with fewer, X X^T (N x N) is
decomposed instead. Both give the same principal directions V of the centred features, and in their
coordinates Z = (X - mean) V a prediction is the mean target + Z diag(1 / (s + penalty)) Z^T Y.

What a fit without image i would say of image i follows from the fit with it: the residual is
divided by 1 - h_i, where h_i is the image's own share in its prediction (the diagonal of the hat
matrix; Allen 1974, "The relationship between variable selection and data augmentation"; it's what
scikit-learn's RidgeCV does). Images that are left out together have a block of that matrix instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# Tried, as multiples of the mean eigenvalue of X^T X: so they don't depend on the features' scale.
PENALTIES = tuple(float(value) for value in np.logspace(-5, 3, 17))
# Images whose features are in float64 at once: 32 MB of 4,096 features.
BLOCK = 1024
# Images that are left out together at most, since that takes memory and time of their square.
MAX_UNIT = 4096


@dataclass(frozen=True)
class Design:
    """Labelled features, read in blocks.

    Args:
        features: float[M,p], in memory or mapped from a file.
        targets: int64[M], 0 ... classes - 1.
        units: int64[M]: images with the same number are left out together, as copies of one image
            have to be. None: each alone.
        rows: int64[N], those that take part, of two units at least; None: all.
    """

    features: NDArray[np.floating]
    targets: Integers
    classes: int
    units: Integers | None = None
    rows: Integers | None = None

    @property
    def width(self) -> int:
        return int(self.features.shape[1])

    def __len__(self) -> int:
        return len(self.targets) if self.rows is None else len(self.rows)

    @cached_property
    def order(self) -> Integers:
        """int64[N], the rows, units together."""
        rows = np.arange(len(self.targets)) if self.rows is None else self.rows
        return rows if self.units is None else rows[np.argsort(self.units[rows], kind="stable")]

    def blocks(self) -> Iterator[tuple[Integers, Floats, Floats]]:
        """Rows int64[n], their features float64[n,p] and one-hot targets float64[n,C], in `order`.

        Units are whole, unless they have more than `MAX_UNIT` images.
        """
        start = 0
        while start < len(self):
            stop = self._end(start)
            rows = self.order[start:stop]
            yield rows, self.features[rows].astype(np.float64), self.one_hot(rows)
            start = stop

    def _end(self, start: int) -> int:
        """Of the block that starts there."""
        stop = min(start + BLOCK, len(self))
        if self.units is None or stop == len(self):
            return stop
        within = self.units[self.order[stop - 1 : start + BLOCK + MAX_UNIT]]
        return stop - 1 + int(np.argmax(np.append(within != within[0], True)))

    def one_hot(self, rows: Integers) -> Floats:
        """float64[n,C]"""
        return np.eye(self.classes)[self.targets[rows]]

    def together(self, rows: Integers) -> list[slice]:
        """Of rows in `order`, where those are that are left out together with others."""
        if self.units is None:
            return []
        units = self.units[rows]
        edges = [0, *(np.flatnonzero(np.diff(units)) + 1).tolist(), len(units)]
        return [slice(low, high) for low, high in pairwise(edges) if high - low > 1]


@dataclass(frozen=True)
class LinearClassifier:
    """Scores of classes; what a head of the network is: `weight` float64[C,p], `bias` float64[C].

    A score is a regression on 0 and 1, not a probability.
    """

    weight: Floats
    bias: Floats

    def scores(self, features: NDArray[np.floating]) -> Floats:
        """float[n,p] -> float64[n,C]"""
        scores: Floats = features.astype(np.float64) @ self.weight.T + self.bias
        return scores


@dataclass(frozen=True)
class Ridge:
    """A design's decomposition, with the penalty that its leave-one-out predictions favour.

    Args:
        mean: float64[p], of the features. target_mean: float64[C], the classes' shares.
        squares: float64[r], the sums of squares along the principal directions.
        directions: float64[p,r], these, orthonormal; None where there are coordinates.
        coordinates: float64[N,r], Z, of fewer images than features; else None, and computed when
            they are asked for.
        products: float64[r,C], Z^T Y.
        penalty: absolute.
    """

    design: Design
    mean: Floats
    target_mean: Floats
    squares: Floats
    directions: Floats | None
    coordinates: Floats | None
    products: Floats
    penalty: float = np.nan

    @property
    def classifier(self) -> LinearClassifier:
        shrunk = self.products / (self.squares + self.penalty)[:, None]
        if self.directions is not None:
            weight = (self.directions @ shrunk).T
        else:  # V = X^T Z / squares
            assert self.coordinates is not None
            shares = (self.coordinates / self.squares) @ shrunk
            weight, start = np.zeros((self.design.classes, self.design.width)), 0
            for _, features, _ in self.design.blocks():
                weight += shares[start : start + len(features)].T @ (features - self.mean)
                start += len(features)
        return LinearClassifier(weight, self.target_mean - weight @ self.mean)

    def leave_one_out(self) -> Iterator[tuple[Integers, Floats]]:
        """Rows int64[n] of the design, in its order, and the scores float64[n,C] that a fit to all
        images but those of its unit would give each of them, with the same penalty."""
        for rows, coordinates, targets in self._blocks():
            together = self.design.together(rows)
            yield rows, self._left_out(coordinates, targets, together, self.penalty)

    def losses(self, penalties: Sequence[float]) -> Floats:
        """float64[L]: the mean squared leave-one-out error at each of the penalties."""
        losses = np.zeros(len(penalties))
        for rows, coordinates, targets in self._blocks():
            together = self.design.together(rows)
            for place, penalty in enumerate(penalties):
                scores = self._left_out(coordinates, targets, together, penalty)
                losses[place] += np.square(scores - targets).sum()
        return losses / (len(self.design) * self.design.classes)

    def _left_out(
        self, coordinates: Floats, targets: Floats, together: list[slice], penalty: float
    ) -> Floats:
        factors = 1 / (self.squares + penalty)
        residuals = targets - self.target_mean - (coordinates * factors) @ self.products
        own_share = 1 / len(self.design) + np.square(coordinates) @ factors
        scores: Floats = targets - residuals / (1 - own_share)[:, None]
        for rows in together:
            unit = coordinates[rows]
            rest = np.eye(len(unit)) - 1 / len(self.design) - (unit * factors) @ unit.T
            scores[rows] = targets[rows] - np.linalg.solve(rest, residuals[rows])
        return scores

    def _blocks(self) -> Iterator[tuple[Integers, Floats, Floats]]:
        """Rows, their coordinates and their targets."""
        if self.coordinates is not None:
            rows = self.design.order
            yield rows, self.coordinates, self.design.one_hot(rows)
            return
        assert self.directions is not None
        for rows, features, targets in self.design.blocks():
            yield rows, (features - self.mean) @ self.directions, targets


def fit(design: Design, penalties: Sequence[float] | None = None) -> Ridge:
    """Fit at the penalty with the smallest mean squared leave-one-out error.

    Takes memory for one square matrix of min(N, p) a side and its eigenvectors, and where there are
    fewer images than features for the features of all in float64.

    Args:
        penalties: absolute, above 0; None: `PENALTIES`, scaled by the features.
    """
    ridge = _decompose(design)
    if penalties is None:
        scale = float(ridge.squares.mean()) if len(ridge.squares) else 1.0
        penalties = [scale * penalty for penalty in PENALTIES]
    best = int(np.argmin(ridge.losses(penalties)))
    return replace(ridge, penalty=float(penalties[best]))


def _decompose(design: Design) -> Ridge:
    # The mean first: taken off X^T X afterwards, it would take the digits that matter with it.
    mean, target_mean = np.zeros(design.width), np.zeros(design.classes)
    for _, features, targets in design.blocks():
        mean += features.sum(axis=0) / len(design)
        target_mean += targets.sum(axis=0) / len(design)
    decompose = _by_features if len(design) >= design.width else _by_images
    return Ridge(design, mean, target_mean, *decompose(design, mean))


def _by_features(design: Design, mean: Floats) -> tuple[Floats, Floats, None, Floats]:
    """Squares, directions and products of `Ridge`, from X^T X."""
    scatter = np.zeros((design.width, design.width))
    correlations = np.zeros((design.width, design.classes))
    for _, features, targets in design.blocks():
        centred = features - mean
        scatter += centred.T @ centred
        correlations += centred.T @ targets
    squares, directions = _eigen(scatter, len(design))
    return squares, directions, None, directions.T @ correlations


def _by_images(design: Design, mean: Floats) -> tuple[Floats, None, Floats, Floats]:
    """Squares, coordinates and products of `Ridge`, from X X^T."""
    blocks = [(features - mean, targets) for _, features, targets in design.blocks()]
    centred = np.concatenate([features for features, _ in blocks])
    targets = np.concatenate([targets for _, targets in blocks])
    squares, vectors = _eigen(centred @ centred.T, design.width)
    coordinates = vectors * np.sqrt(squares)
    return squares, None, coordinates, coordinates.T @ targets


def _eigen(matrix: Floats, other_side: int) -> tuple[Floats, Floats]:
    """Eigenvalues float64[r], those that are more than rounding, and their vectors as columns."""
    squares, vectors = np.linalg.eigh(matrix)
    limit = squares[-1] * max(len(matrix), other_side) * np.finfo(np.float64).eps
    kept = squares > limit
    return squares[kept], vectors[:, kept]
