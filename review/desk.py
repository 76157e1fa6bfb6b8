"""What the page needs of whoever knows the images: images to look at, and a place for decisions.

The page and its application know nothing but this; `review.session` is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from models.errors import UserError
from review.journal import Decision, Standing

Queue = Literal["all", "new", "suspects", "disputes"]


class UnknownImage(UserError):
    """There is no such image here (any more)."""


class NotNow(UserError):
    """It can't be had at present; the message says why."""


@dataclass(frozen=True)
class Card:
    """An image to decide about.

    Args:
        image: SHA-256 of its bytes, by which it is asked for.
        reason: why it is shown: disputed, suspect, new.
        given: the label that it came with; None: none.
        suggested: labels with their probabilities, 0..1, the best first; of a suspect what the
            other images say.
        said: what the served model answered; None: it wasn't captured.
        standing: what people decided about it so far.
    """

    image: str
    name: str
    source: str
    reason: str
    given: str | None
    suggested: tuple[tuple[str, float], ...]
    said: str | None
    standing: Standing


@dataclass(frozen=True)
class Taken:
    """A decision as it is on the disk, and what holds for its image now."""

    decision: Decision
    standing: Standing


class Desk(Protocol):
    """Called by several threads at once."""

    def overview(self) -> dict[str, Any]:
        """Classes, counts, what the last fit found and changed; JSON-ready."""
        ...

    def queue(self, tab: str, which: Queue, count: int) -> list[Card]:
        """The next images for this tab, which no other tab is shown for a while, unless there are
        no others."""
        ...

    def group(self, tab: str, count: int) -> tuple[str, list[Card]] | None:
        """Images of which the head says the same label, the surest first; None: there are none."""
        ...

    def card(self, image: str) -> Card:
        """Raises UnknownImage."""
        ...

    def decide(self, decisions: Sequence[Decision]) -> list[Taken]:
        """Write decisions to the disk, then return.

        Raises:
            UnknownImage: one is about an image that isn't here. None is written then.
            JournalError: one isn't a decision.
        """
        ...

    def path(self, image: str) -> Path:
        """The image's file. Raises UnknownImage."""
        ...

    def heat_map(self, image: str, label: str) -> bytes:
        """A PNG of what the model sees, under what speaks for a label.

        Raises:
            UnknownImage. NotNow: nothing is fitted yet, or the label is none of the fit's.
        """
        ...

    def disagreements(self) -> list[Card]:
        """Images about which different things were said, settled or not, the open ones first."""
        ...

    def export(self, form: str) -> tuple[str, bytes]:
        """A file's name and content. Raises NotNow: there is no such form."""
        ...

    def start(self, job: str) -> None:
        """Begin a job in the background. Raises NotNow: another one runs, or there is none such."""
        ...
