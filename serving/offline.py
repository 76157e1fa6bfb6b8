"""Classifies image files without a server, with the service's own session and decode."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.acceptance import Acceptance
from models.errors import ImageError
from models.image import load_image
from models.spec import ModelSpec
from serving.core.dataplane import Prediction, top
from serving.engine.session import Judged, is_accepted

Judge = Callable[[Sequence[NDArray[np.uint8]]], Sequence[Judged]]


@dataclass(frozen=True)
class Classified:
    """One file: its most probable labels, best first, or why it has none.

    accepted: whether to trust the first. distance: see `serving.engine.session.Judged`.
    """

    file: str
    predictions: Sequence[Prediction] = ()
    accepted: bool | None = None
    distance: float | None = None
    error: str = ""


def classify_files(
    files: Iterable[str],
    judge: Judge,
    spec: ModelSpec,
    acceptance: Acceptance | None,
    *,
    top_k: int,
    batch_size: int,
    threads: int,
) -> Iterator[Classified]:
    """Classify files in their order; one that can't be read has an error, and the rest goes on.

    While a batch runs, threads decode the next one, so the model waits for nothing as long as they
    are faster than it is. Two batches are in memory at most.

    Args:
        judge: `serving.engine.session.Session.judge`.
        acceptance: which answers are to be trusted; None: all.
        top_k: labels for each.
        batch_size: images that the model runs on at once.
        threads: that decode.
    """
    ahead: deque[tuple[str, Future[NDArray[np.uint8]]]] = deque()
    waiting = iter(files)
    with ThreadPoolExecutor(threads, "decode") as pool:

        def fill() -> None:
            for file in islice(waiting, 2 * batch_size - len(ahead)):
                ahead.append((file, pool.submit(load_image, Path(file), spec.preprocessing)))

        fill()
        while ahead:
            batch = [ahead.popleft() for _ in range(min(batch_size, len(ahead)))]
            decoded = [_result(future) for _, future in batch]
            fill()
            good = [image for image in decoded if not isinstance(image, ImageError)]
            rows = iter(judge(good) if good else ())
            for (file, _), image in zip(batch, decoded, strict=True):
                if isinstance(image, ImageError):
                    yield Classified(file, error=str(image))
                else:
                    row = next(rows)
                    best = top(spec.labels, row.probabilities, top_k)
                    yield Classified(file, best, is_accepted(acceptance, row), row.distance)


def _result(future: Future[NDArray[np.uint8]]) -> NDArray[np.uint8] | ImageError:
    try:
        return future.result()
    except ImageError as error:
        return error
