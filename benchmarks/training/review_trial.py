"""One split of a data set on which orders of labels are tried (`benchmarks.training.review`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from review.fit import Fit, best_depth, can_fit, fit_labels
from review.space import Space, make_space

# Labels between two fits, as on the page.
BATCH = 10

Labels = dict[int, str]
# From what is labelled and the last fit to the rows that are labelled next.
Order = Callable[[Labels, Fit | None], list[int]]


@dataclass(frozen=True)
class Trial:
    """One split of a data set. Rows of `spaces` are those of the images to label.

    Args:
        truth: labels of the images to label. judged: of those that judge.
        features: of the latter, by depth, in the same directions.
        seed: of the split.
    """

    truth: list[str]
    judged: list[str]
    units: NDArray[np.int64]
    spaces: dict[str, Space]
    features: dict[str, NDArray[np.float32]]
    seed: int

    def accuracy(self, fit: Fit) -> float:
        scores = self.features[fit.depth] @ fit.weight.T + fit.bias
        said = np.array(fit.labels)[scores.argmax(axis=1)]
        return float((said == np.array(self.judged)).mean())

    def depth(self, fit: Fit | None) -> str:
        """The fit's; before the first one, the one in the middle."""
        depths = list(self.spaces)
        return fit.depth if fit else depths[len(depths) // 2]

    def rest(self, labels: Labels) -> NDArray[np.int64]:
        """Rows that have no label yet."""
        return np.setdiff1d(np.arange(len(self.truth)), list(labels))


class Fitter:
    """Fits as a session does: the depth is chosen anew with twice the labels."""

    def __init__(self, trial: Trial) -> None:
        self._trial = trial
        self._chosen_with = 0

    def __call__(self, labels: Labels) -> Fit | None:
        trial = self._trial
        if not can_fit(labels):
            return None
        if len(labels) >= 2 * self._chosen_with:
            self._depth = best_depth(labels, trial.units, trial.spaces)
            self._chosen_with = len(labels)
        return fit_labels(labels, trial.units, trial.spaces[self._depth], self._depth)


def split(features: dict[str, NDArray[np.floating]], truth: list[str], seed: int) -> Trial:
    """A third of the images judges."""
    order = np.random.default_rng([seed, 1]).permutation(len(truth))
    judged, pool = np.sort(order[: len(truth) // 3]), np.sort(order[len(truth) // 3 :])
    spaces = {depth: make_space(values[pool]) for depth, values in features.items()}
    return Trial(
        truth=[truth[row] for row in pool],
        judged=[truth[row] for row in judged],
        units=np.arange(len(pool)),
        spaces=spaces,
        features={depth: space.of(features[depth][judged]) for depth, space in spaces.items()},
        seed=seed,
    )


def curve(trial: Trial, order: Order, most: int) -> list[float]:
    """The accuracy after each `BATCH` labels, up to all images, or `most` labels; that of the last
    fit, where the order gives more at once."""
    labels: Labels = {}
    fit, fitter, accuracies = None, Fitter(trial), [0.0]
    while len(labels) < min(most, len(trial.truth)):
        labels |= {row: trial.truth[row] for row in order(labels, fit)}
        fit = fitter(labels)
        new = -(-len(labels) // BATCH) + 1 - len(accuracies)
        if new:
            accuracies += [accuracies[-1]] * (new - 1)
            accuracies.append(trial.accuracy(fit) if fit else 0.0)
    return accuracies[1:]
