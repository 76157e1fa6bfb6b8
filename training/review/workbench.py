"""What `vgg19 review` does with labels: heat maps of the fitted head, and jobs on this machine."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.captured import put_labels
from models.files import staged_file
from models.text import shown
from review.desk import NotNow
from review.pool import Item
from review.tables import captured_table
from review.workbench import Elsewhere, Labelled, LabelWeight
from training.review.heat import heat_map
from training.review.jobs import Jobs
from training.review.pool import NetworkPool
from training.review.tables import training_table

logger = logging.getLogger(__name__)


class LocalWorkbench:
    """See `review.workbench.Workbench`.

    Args:
        jobs: what can be started in the background.
        captured: a table of captured images' labels, and the location beside whose images they are
            laid before a job begins; None: none were captured.
    """

    exports = ("labels", "label-studio")
    elsewhere: tuple[Elsewhere, ...] = ()

    def __init__(
        self, pool: NetworkPool, jobs: Jobs, captured: tuple[Path, str] | None = None
    ) -> None:
        self._pool = pool
        self._jobs = jobs
        self._captured = captured

    def heat_map(self, item: Item, label: str, head: LabelWeight | None) -> NDArray[np.uint8]:
        if head is None:
            raise NotNow(f"'{label}' has no heat map yet: too few images have that label")
        depth = self._pool.depths.get(head.depth)
        if depth is None:
            raise NotNow(f"there are no heat maps: no network is loaded that has {head.depth}")
        try:
            return heat_map(self._pool, item.path, depth, head.weight, label)
        except RuntimeError as error:  # PyTorch's: no memory is left, for example
            logger.exception("a heat map can't be made")
            reason = shown(str(error).partition("\n")[0])
            raise NotNow(f"the heat map can't be made: {reason}") from None

    def labels_table(self, labelled: Labelled) -> bytes:
        return training_table(self._pool, labelled)

    def jobs(self) -> dict[str, Any]:
        return self._jobs.describe()

    def start(self, job: str, labelled: Labelled) -> None:
        """Lay the labels where the job looks for them, and begin it.

        Raises:
            NotNow: see `Jobs.start`. CaptureError: the labels can't be laid there.
        """
        if self._captured is not None:
            table, url = self._captured
            with staged_file(table) as staging:
                staging.write_bytes(captured_table(labelled))
            put_labels(url, table)
        self._jobs.start(job, training_table(self._pool, labelled))
