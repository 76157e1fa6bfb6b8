"""Image files: found by folder, list or pattern, and classified with the service's own session and
decode."""

from __future__ import annotations

import csv
import glob
from collections import Counter, deque
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
_NAMED_ENDINGS = 4


class PredictError(UserError):
    """There is nothing to classify, or the result can't be written."""


def find_files(
    sources: Sequence[str], tell: Callable[[str], None] = lambda line: None
) -> list[str]:
    """The image files of folders (with all below them), of CSVs' column `path`, and of patterns or
    names; each once, in order.

    Args:
        tell: is given a line about files of folders that are skipped, if there are any.

    Raises:
        PredictError: a source has none.
    """
    skipped: set[Path] = set()
    files = list(dict.fromkeys(file for source in sources for file in _files_of(source, skipped)))
    if skipped:
        tell(f"{_counted(skipped)} skipped; of folders, {_endings()} are read")
    return files


def _files_of(source: str, skipped: set[Path]) -> list[str]:
    place = Path(source)
    if place.is_dir():
        images, others = _in_folder(place)
        found = [str(file) for file in images]
        skipped |= others
        has = f" (it has {_counted(others)})" if others else ""
        what = f"no image files ({_endings()}) in {source}{has}"
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


def _in_folder(folder: Path) -> tuple[list[Path], set[Path]]:
    """All below it: those that end as images do, sorted, and other files that aren't hidden."""
    below = sorted(folder.rglob("*"))
    images = [file for file in below if file.suffix.lower() in _SUFFIXES]
    others = set(below).difference(images)
    return images, {file for file in others if not file.name.startswith(".") and file.is_file()}


def _endings() -> str:
    return ", ".join(sorted(_SUFFIXES))


def _counted(files: Iterable[Path]) -> str:
    """As `3 files (2 .heic, 1 .txt)`, the most frequent endings first."""
    endings = Counter(file.suffix.lower() or "without an ending" for file in files)
    named = [f"{count:,} {ending[:20]}" for ending, count in endings.most_common(_NAMED_ENDINGS)]
    more = ["..."] if len(endings) > _NAMED_ENDINGS else []
    total = endings.total()
    return f"{total:,} file{'s' if total > 1 else ''} ({', '.join([*named, *more])})"


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
