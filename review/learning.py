"""What the labels there are come to: the fit, the order of what is left, and what changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from models.linear.predictions import doubt
from review.fit import Change, Fit, best_depth, can_fit, change, fit_labels
from review.order import first_penalty, most_valuable, uncertainty
from review.pool import Pool
from review.space import Space, make_space

# Images of an order: a few batches, so that nobody waits for the next one.
_ORDERED = 60


@dataclass(frozen=True)
class Learned:
    """What one fit led to.

    Args:
        fit: None: there are too few labels.
        order: rows of images without a label, the most valuable first.
        suspects: row -> what the others say of it; the worst first.
        change: since the fit before; None: there was none.
    """

    fit: Fit | None = None
    order: tuple[int, ...] = ()
    suspects: Mapping[int, str] = field(default_factory=dict)
    change: Change | None = None

    @property
    def suspects_are_hard(self) -> bool:
        """Whether most of them may be right after all (`models.linear.predictions.doubt`)."""
        return self.fit is not None and doubt(self.fit.predictions) is not None


class Learner:
    """Fits to the features of a pool. Not for several threads at once."""

    def __init__(self, pool: Pool) -> None:
        self._features = pool.features
        self._doubt = np.array([item.doubt for item in pool.items])
        numbers = {item.unit: place for place, item in enumerate(pool.items)}
        self._units = np.array([numbers[item.unit] for item in pool.items], np.int64)
        self._spaces: dict[str, Space] = {}
        # Before there are labels that could tell: the middle one.
        self._depth = [*pool.features, ""][len(pool.features) // 2]
        self._depth_chosen_with = 0

    def learn(
        self, labelled: Mapping[int, str], unlabelled: Sequence[int], before: Learned
    ) -> Learned:
        """Fit again.

        Args:
            labelled: row -> label. unlabelled: rows that may be asked for.
            before: what the fit before led to.
        """
        fit = self._fit(labelled) if self._features and can_fit(labelled) else None
        return Learned(
            fit=fit,
            order=self._order(fit, labelled, unlabelled),
            suspects={row: says for row, says, _ in fit.suspects()} if fit else {},
            change=change(before.fit, fit) if fit and before.fit else before.change,
        )

    def space(self, depth: str) -> Space:
        if depth not in self._spaces:
            self._spaces[depth] = make_space(self._features[depth])
        return self._spaces[depth]

    def _fit(self, labelled: Mapping[int, str]) -> Fit:
        """At the depth that says most; it is chosen anew when there are twice as many labels."""
        if len(labelled) >= 2 * self._depth_chosen_with:
            spaces = {depth: self.space(depth) for depth in self._features}
            self._depth = best_depth(labelled, self._units, spaces)
            self._depth_chosen_with = len(labelled)
        return fit_labels(labelled, self._units, self.space(self._depth), self._depth)

    def _order(
        self, fit: Fit | None, labelled: Mapping[int, str], unlabelled: Sequence[int]
    ) -> tuple[int, ...]:
        if not unlabelled:
            return ()
        if not self._features:
            return tuple(sorted(unlabelled, key=lambda row: -self._doubt[row]))
        coordinates = self.space(self._depth).coordinates
        return tuple(
            most_valuable(
                coordinates,
                np.array(sorted(labelled), np.int64),
                np.array(unlabelled, np.int64),
                uncertainty(fit.probabilities) if fit else self._doubt,
                penalty=fit.penalty if fit else first_penalty(coordinates),
                count=_ORDERED,
            )
        )
