"""What a review asks of the place where it runs: heat maps, and what can be done with the labels.

`training.review.workbench` is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from review.pool import Item

# In the order of the pool.
Labelled = Sequence[tuple[Item, str]]


@dataclass(frozen=True)
class LabelWeight:
    """What the head that was fitted last gives the features of a depth for one label: their product
    is its score. `weight`: float32[p]."""

    depth: str
    weight: NDArray[np.float32]


@dataclass(frozen=True)
class Elsewhere:
    """What can't be done where the review runs, and the command that does it."""

    what: str
    command: str


class Workbench(Protocol):
    """Called by several threads at once.

    exports: forms in which the labels can be had: labels, label-studio.
    elsewhere: what can't be done here.
    """

    @property
    def exports(self) -> tuple[str, ...]: ...

    @property
    def elsewhere(self) -> tuple[Elsewhere, ...]: ...

    def heat_map(self, item: Item, label: str, head: LabelWeight | None) -> NDArray[np.uint8]:
        """uint8[S,S,3]: what the model sees of an image, under what speaks for a label.

        Args:
            head: None: nothing is fitted to this label yet.

        Raises:
            NotNow: it can't be had. ImageError: the file can't be read.
        """
        ...

    def labels_table(self, labelled: Labelled) -> bytes:
        """The labels as CSV."""
        ...

    def jobs(self) -> dict[str, Any]:
        """JSON-ready: `names` of the jobs that there are, and the state of the `last`."""
        ...

    def start(self, job: str, labelled: Labelled) -> None:
        """Begin a job with these labels.

        Raises:
            NotNow: there is no such job, or another one runs. UserError: it can't begin.
        """
        ...
