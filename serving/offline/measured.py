"""What drift is measured by, of files: classified here, or from the table of `vgg19 predict`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.bundle.acceptance import Acceptance
from models.bundle.spec import ModelSpec
from models.errors import ImageError
from models.imaging.image import decode_image
from models.imaging.preprocessing import Preprocessing
from models.monitoring.features import ImageMeasures, measured
from serving.engine.session import is_accepted
from serving.offline.files import Judge, PredictError, find_files
from serving.offline.table import read_table

# What the service captures, see `serving.observability.capture`.
_CAPTURED = "*.img"
_UNKNOWN = ImageMeasures(np.nan, np.nan)


# A file, and what is measured of it or why it can't be read.
Row = tuple[str, tuple[float, ...] | str]


@dataclass(frozen=True)
class MeasuredFiles:
    """Files with what is measured of each, rows float64[N,F]; and those that couldn't be read, with
    the reason."""

    files: list[str]
    rows: NDArray[np.float64]
    unread: list[tuple[str, str]]


def is_table(source: str) -> bool:
    """Whether it may be one that `vgg19 predict` wrote."""
    path = Path(source)
    return path.is_file() and path.suffix.lower() in (".csv", ".parquet")


def find_images(sources: Sequence[str]) -> list[str]:
    """As `find_files`, and in folders the images that a service captured.

    Raises:
        PredictError: a source has none.
    """
    found: list[str] = []
    for source in sources:
        captured = sorted(map(str, Path(source).rglob(_CAPTURED))) if Path(source).is_dir() else []
        found += captured or find_files([source])
    return list(dict.fromkeys(found))


def measure_files(
    files: Sequence[str],
    judge: Judge,
    spec: ModelSpec,
    acceptance: Acceptance | None,
    *,
    batch_size: int,
    threads: int,
) -> Iterator[Row]:
    """Classify files in their order: of each what is measured, or why it can't be read.

    Args:
        judge: `serving.engine.session.Session.judge`.
        acceptance: which answers are to be trusted; None: all.
        batch_size: images that the model runs on at once. threads: that decode.
    """
    prepare = partial(_prepared, preprocessing=spec.preprocessing)
    with ThreadPoolExecutor(threads, "decode") as pool:
        for first in range(0, len(files), batch_size):
            some = files[first : first + batch_size]
            prepared = list(pool.map(prepare, some))
            pixels = [one[0] for one in prepared if not isinstance(one, str)]
            outputs = iter(judge(pixels) if pixels else ())
            for file, one in zip(some, prepared, strict=True):
                if isinstance(one, str):
                    yield file, one
                    continue
                output = next(outputs)
                label = output.best()
                yield (
                    file,
                    measured(
                        one[1],
                        float(output.probabilities[label]),
                        output.distance,
                        label,
                        accepted=is_accepted(acceptance, output),
                    ),
                )


def measure_table(path: Path, spec: ModelSpec, *, threads: int) -> Iterator[Row]:
    """What a table of `vgg19 predict` says of each file, and the file itself where it is still
    there; as `measure_files`.

    Raises:
        PredictError: it isn't such a table, or one of a model with other labels.
    """
    columns = {label: column for column, label in enumerate(spec.labels)}
    look = partial(_measures, preprocessing=spec.preprocessing)
    with ThreadPoolExecutor(threads, "decode") as pool:
        rows = read_table(path)
        measures = pool.map(look, (str(row["file"]) for row in rows))
        for row, image in zip(rows, measures, strict=True):
            file = str(row["file"])
            if row.get("error"):
                yield file, str(row["error"])
                continue
            label = str(row["label_1"])
            if label not in columns:
                raise PredictError(
                    f"{path} has the label '{label[:50]}', which the model hasn't; name the model "
                    "that made the table"
                )
            distance = row.get("distance")
            has_distance = distance not in (None, "")
            yield (
                file,
                measured(
                    image,
                    _number(path, "probability_1", row["probability_1"]),
                    _number(path, "distance", distance) if has_distance else None,
                    columns[label],
                    accepted=str(row.get("accepted")) != "False",
                ),
            )


def _number(path: Path, column: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise PredictError(
            f"{path} has '{str(value)[:50]}' in its column {column}, which is no number; was it "
            "changed since 'vgg19 predict' wrote it?"
        ) from None


def gather(found: Iterator[Row]) -> MeasuredFiles:
    """All of it.

    Raises:
        PredictError: no file could be read.
    """
    files: list[str] = []
    rows: list[tuple[float, ...]] = []
    unread: list[tuple[str, str]] = []
    for file, one in found:
        if isinstance(one, str):
            unread.append((file, one))
        else:
            files.append(file)
            rows.append(one)
    if not files:
        why = f"; the first is {unread[0][0]}: {unread[0][1]}" if unread else ""
        raise PredictError(f"none of {len(unread)} files could be read{why}")
    return MeasuredFiles(files, np.array(rows), unread)


def _prepared(
    file: str, *, preprocessing: Preprocessing
) -> tuple[NDArray[np.uint8], ImageMeasures] | str:
    try:
        image = decode_image(Path(file), preprocessing)
    except ImageError as error:
        return str(error).removeprefix(f"{file}: ")
    return image.pixels, ImageMeasures.of(image)


def _measures(file: str, *, preprocessing: Preprocessing) -> ImageMeasures:
    """Nothing where the file is gone: the table's own columns are compared then."""
    found = _prepared(file, preprocessing=preprocessing)
    return _UNKNOWN if isinstance(found, str) else found[1]
