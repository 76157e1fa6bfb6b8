"""One model's production: windows of it, a test of each feature, and when an alarm was raised."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.monitoring.distances import Comparison, Groups, compare, group
from models.monitoring.features import NAMES, Feature, Layout
from models.monitoring.reference import Reference
from models.monitoring.sequential import SequentialTest
from models.monitoring.windows import History, Windows

# Images that are tested of one `add`, at most; of more, a random choice. It bounds what the test
# costs: a service that adds every 5 s tests 200 images a second.
MOST_TESTED = 1_000


@dataclass(frozen=True)
class Rules:
    """When there is an alarm.

    Args:
        false_alarm_rate: probability of ever raising one without a change, 0..1, over all features.
        features: names of those that may raise one; the others are shown.
    """

    false_alarm_rate: float = 0.01
    features: Collection[str] = NAMES


class FeatureWatch:
    """One feature.

    Args:
        reference: int64[B], its histogram; all 0: the model doesn't have it.
        part: where its bins are in a `Layout`.
        may_alarm: whether it is among `Rules.features`.
    """

    def __init__(
        self, feature: Feature, reference: NDArray[np.int64], part: slice, *, may_alarm: bool
    ) -> None:
        self.feature = feature
        self.reference = reference
        self.part = part
        self.groups: Groups = group(feature, reference)
        self.is_there = bool(reference.any())
        self.may_alarm = may_alarm and self.is_there
        self.test = SequentialTest(reference, is_ordinal=feature.is_ordinal)
        self.alarm_at: float | None = None

    def compare(self, counts: NDArray[np.int64]) -> Comparison | None:
        """With a histogram of all features, int64[L]; None where one of the two is empty."""
        return compare(counts[self.part], self.reference, self.groups)

    def add(self, counts: NDArray[np.int64], rng: np.random.Generator) -> None:
        """Test images, int64[L]."""
        if self.is_there:
            self.test.add(_some(counts[self.part], rng), rng)


class Watch:
    """Compares images with a reference.

    Args:
        labels: of the model. window: images of the window by count.
        rng: of the test's ties and orders; None: of the operating system.
    """

    def __init__(
        self,
        reference: Reference,
        labels: Sequence[str],
        window: int,
        rules: Rules,
        rng: np.random.Generator | None = None,
    ) -> None:
        self.rules = rules
        self.reference_images = reference.images
        self.layout = Layout.of(labels)
        self.windows = Windows(self.layout.size, window)
        self.history = History(1 + len(NAMES))  # images of the recent window, and each index
        self.images = 0
        self.since: float | None = None
        self._rng = rng or np.random.default_rng()
        histogram = reference.histogram()
        self.features = [
            FeatureWatch(feature, histogram[part], part, may_alarm=feature.name in rules.features)
            for feature, part in zip(self.layout.features, self.layout.slices, strict=True)
        ]

    @property
    def needed_evidence(self) -> float:
        """From which on a feature's evidence is an alarm: Bonferroni's share of the rate."""
        return max(1, sum(one.may_alarm for one in self.features)) / self.rules.false_alarm_rate

    @property
    def alarms(self) -> list[str]:
        """Names of the features that have raised one since it began."""
        return [one.feature.name for one in self.features if one.alarm_at is not None]

    def add(self, counts: NDArray[np.int64], images: int, now: float) -> None:
        """Count and test images that came about `now`, in seconds since 1970.

        Args:
            counts: int64[L], their histogram; all 0 where only time has passed. images: how many.
        """
        if self.since is None:
            self.since = now
        self.images += images
        self.windows.add(counts, images, now)
        recent, recent_images = self.windows.recent()
        indexes = [float(recent_images)]
        for one in self.features:
            one.add(counts, self._rng)
            if one.alarm_at is None and self._raises_alarm(one):
                one.alarm_at = now
            compared = one.compare(recent)
            indexes.append(np.nan if compared is None else compared.psi)
        self.history.set(np.array(indexes), now)

    def _raises_alarm(self, one: FeatureWatch) -> bool:
        return one.may_alarm and one.test.most_evidence >= self.needed_evidence

    def state(self) -> dict[str, NDArray[Any]]:
        """Arrays to go on from, see `restore`."""
        alarms = [np.nan if one.alarm_at is None else one.alarm_at for one in self.features]
        found = {
            "images": np.int64(self.images),
            "since": np.float64(np.nan if self.since is None else self.since),
            "alarms": np.array(alarms),
        }
        parts: dict[str, Any] = {"windows": self.windows, "history": self.history}
        parts |= {one.feature.name: one.test for one in self.features}
        for name, part in parts.items():
            found |= {f"{name}.{key}": value for key, value in part.state().items()}
        return {name: np.asarray(value) for name, value in found.items()}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on where another one stood that compared with the same reference. Its rules may have
        been others: an alarm that these wouldn't raise is over.

        Raises:
            KeyError, ValueError: it is another version's state.
        """
        parts: dict[str, Any] = {"windows": self.windows, "history": self.history}
        parts |= {one.feature.name: one.test for one in self.features}
        for name, part in parts.items():
            values = {key: state[f"{name}.{key}"] for key in part.state()}
            for key, before in part.state().items():
                if np.shape(before) != np.shape(values[key]):
                    raise ValueError(f"{name}.{key} has shape {np.shape(values[key])}")
            part.restore(values)
        self.images = int(state["images"])
        self.since = _known(state["since"])
        for one, at in zip(self.features, state["alarms"], strict=True):
            one.alarm_at = _known(at) if self._raises_alarm(one) else None


def _some(counts: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Of more than `MOST_TESTED` images as many, chosen at random."""
    if counts.sum() <= MOST_TESTED:
        return counts
    return rng.multivariate_hypergeometric(counts, MOST_TESTED, method="marginals")


def _known(value: NDArray[Any]) -> float | None:
    return None if np.isnan(value) else float(value)
