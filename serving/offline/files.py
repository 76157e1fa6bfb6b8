"""Image files: found by folder, list or pattern, and classified with the service's own session and
decode."""

from __future__ import annotations

import csv
import glob
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.bundle.acceptance import Acceptance
from models.bundle.spec import ModelSpec
from models.errors import ImageError, UserError
from models.imaging.image import load_image, read_image_file
from models.imaging.preprocessing import Preprocessing
from serving.core.requests import Prediction, top
from serving.engine.session import ModelOutput, is_accepted

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
_COLUMN = "path"


class PredictError(UserError):
    """There is nothing to classify, or the result can't be written."""


def find_files(sources: Sequence[str]) -> list[str]:
    """The image files of folders (with all below them), of CSVs' column `path`, and of patterns or
    names; each once, in order.

    Raises:
        PredictError: a source has none.
    """
    return list(dict.fromkeys(file for source in sources for file in _files_of(source)))


def _files_of(source: str) -> list[str]:
    place = Path(source)
    if place.is_dir():
        found = [str(file) for file in sorted(place.rglob("*")) if file.suffix.lower() in _SUFFIXES]
        what = f"no image files ({', '.join(sorted(_SUFFIXES))}) in {source}"
    elif place.suffix.lower() == ".csv":
        found, what = _listed(place), f"{source} lists no files"
    else:
        # Path.glob knows no absolute patterns.
        matches = [source] if place.is_file() else glob.glob(source, recursive=True)  # noqa: PTH207
        found = sorted(file for file in matches if Path(file).is_file())
        what = f"'{source}' is neither a folder nor a file, and matches no file as a pattern"
    if not found:
        raise PredictError(f"{what}; name a folder, a CSV with a column '{_COLUMN}', or a pattern")
    return found


def _listed(table: Path) -> list[str]:
    """Relative paths are relative to the table's folder, as for `vgg19 train`."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            names = reader.fieldnames or ()
            if _COLUMN not in names:
                raise PredictError(
                    f"{table} has no column '{_COLUMN}', it has {', '.join(names)[:200]}"
                )
            return [str(table.parent / row[_COLUMN]) for row in reader if row[_COLUMN]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PredictError(f"{table} can't be read as CSV: {error}") from None


Judge = Callable[[Sequence[NDArray[np.uint8]]], Sequence[ModelOutput]]


@dataclass(frozen=True)
class Classified:
    """One file: its most probable labels, best first, or why it has none.

    accepted: whether to trust the first. distance: see `serving.engine.session.ModelOutput`.
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
                ahead.append((file, pool.submit(_decode, file, spec.preprocessing)))

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


def _decode(file: str, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    return load_image(read_image_file(Path(file)), preprocessing)


def _result(future: Future[NDArray[np.uint8]]) -> NDArray[np.uint8] | ImageError:
    try:
        return future.result()
    except ImageError as error:
        return error
