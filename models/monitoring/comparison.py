"""Two models that answered the same images: production, and a candidate in its shadow.

Everything is a sum, so memory is constant, and what several workers of several replicas counted is
added up. A model's own answer is an `Opinion`; which numbers of it are compared is said once, here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, Field

from models.intervals import wilson
from models.monitoring.histogram import Times

# Pairs of different labels that are counted apart; 1,100 classes could make a million.
_MAX_CONFUSIONS = 200
_OTHER = "other"
_BETWEEN = "\u2192"

Failure = Literal["error", "invalid"]


@dataclass(frozen=True, slots=True)
class Opinion:
    """What one model says of an image.

    Args:
        label: its most probable one. confidence: that one's probability, 0..1.
        distance: from its training images, 1 is the limit; None: the model has none.
    """

    label: str
    confidence: float
    accepted: bool
    distance: float | None = None


class Side(BaseModel):
    """Sums over one model's answers. `distances`: how many of them had one. `alone`: the time of an
    image with nothing beside its batch, counted where both models have one of the same batch size.
    """

    confidence: float = 0.0
    accepted: int = 0
    distance: float = 0.0
    distances: int = 0
    alone: Times = Field(default_factory=Times)

    def add(self, opinion: Opinion) -> None:
        self.confidence += opinion.confidence
        self.accepted += opinion.accepted
        if opinion.distance is not None:
            self.distance += opinion.distance
            self.distances += 1

    def merge(self, other: Side) -> None:
        self.confidence += other.confidence
        self.accepted += other.accepted
        self.distance += other.distance
        self.distances += other.distances
        self.alone.merge(other.alone)


class Labelled(BaseModel):
    """Of images whose right label somebody told: which of the two was right."""

    both: int = 0
    production: int = 0
    candidate: int = 0
    neither: int = 0

    @property
    def images(self) -> int:
        return self.both + self.production + self.candidate + self.neither

    @property
    def difference(self) -> float | None:
        """Of the accuracies, candidate minus production; None: no image has a label."""
        return (self.candidate - self.production) / self.images if self.images else None

    def add(self, right: str, production: str, candidate: str) -> None:
        by = {(True, True): "both", (True, False): "production", (False, True): "candidate"}
        name = by.get((production == right, candidate == right), "neither")
        setattr(self, name, getattr(self, name) + 1)

    def merge(self, other: Labelled) -> None:
        for name in Labelled.model_fields:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Comparison(BaseModel):
    """Production and candidate on the same images.

    images: that both answered. accepted_alike: both accepted, or neither did. dropped: images for
    which there was no room or no time. skipped: that the candidate can't be given (of another size,
    or too large to be decoded a second time). failures: images that the candidate didn't answer, by
    kind. confusions: images by the two labels, where they differ.
    """

    images: int = 0
    agreed: int = 0
    accepted_alike: int = 0
    production: Side = Field(default_factory=Side)
    candidate: Side = Field(default_factory=Side)
    labelled: Labelled = Field(default_factory=Labelled)
    dropped: int = 0
    skipped: int = 0
    failures: dict[str, int] = Field(default_factory=dict)
    confusions: dict[str, int] = Field(default_factory=dict)

    def add(self, production: Opinion, candidate: Opinion) -> None:
        self.images += 1
        self.production.add(production)
        self.candidate.add(candidate)
        self.accepted_alike += production.accepted == candidate.accepted
        if production.label == candidate.label:
            self.agreed += 1
            return
        self._confuse(f"{production.label} {_BETWEEN} {candidate.label}", 1)

    def add_failure(self, kind: Failure) -> None:
        self.failures[kind] = self.failures.get(kind, 0) + 1

    def merge(self, other: Comparison) -> None:
        for name in ("images", "agreed", "accepted_alike", "dropped", "skipped"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.production.merge(other.production)
        self.candidate.merge(other.candidate)
        self.labelled.merge(other.labelled)
        for kind, count in other.failures.items():
            self.failures[kind] = self.failures.get(kind, 0) + count
        for pair, count in other.confusions.items():
            self._confuse(pair, count)

    @property
    def failed(self) -> int:
        return sum(self.failures.values())

    @property
    def agreement(self) -> float | None:
        """The share of images with the same label from both; None: no images yet."""
        return self.agreed / self.images if self.images else None

    def agreement_interval(self) -> tuple[float, float] | None:
        """95%, of it, Wilson's."""
        return None if self.agreement is None else wilson(self.agreement, self.images)

    @property
    def latency_ratio(self) -> float | None:
        """Candidate's median time for an image over production's, each measured where nothing else
        was under way, of batches of the same sizes; None: there is no such time."""
        production, candidate = self.production.alone.median_s, self.candidate.alone.median_s
        return candidate / production if production and candidate else None

    def mean(self, side: Side, what: Literal["confidence", "accepted", "distance"]) -> float | None:
        """Of one of the two sides; None: there is nothing to take it of."""
        count = side.distances if what == "distance" else self.images
        return float(getattr(side, what)) / count if count else None

    def _confuse(self, pair: str, count: int) -> None:
        if pair not in self.confusions and len(self.confusions) >= _MAX_CONFUSIONS:
            pair = _OTHER
        self.confusions[pair] = self.confusions.get(pair, 0) + count
