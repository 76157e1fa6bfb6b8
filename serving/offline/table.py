"""The table of labels that `vgg19 predict` writes.

It is written when all is done. Until then, lines of JSON lie beside it in OUTPUT.part, which an
interrupted run leaves and the next one goes on with.
"""

from __future__ import annotations

import csv
import json
import os
import time
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Self

from models.files import staged_file
from models.text import utf8
from serving.offline.files import Classified, PredictError

_SAVE_EVERY_S = 10.0
_ROWS_AT_ONCE = 10_000  # of a Parquet row group
WRITERS = (".csv", ".parquet")


class Progress:
    """The lines of OUTPUT.part.

    Args:
        output: the table that they become.
        settings: what the labels depend on: lines made with others are not gone on with.

    Raises:
        PredictError: the lines there were made with other settings, or it can't be written.
    """

    def __init__(self, output: Path, settings: Mapping[str, Any]) -> None:
        self._output = output
        self._part = output.with_name(f"{output.name}.part")
        self._head = json.dumps(settings, sort_keys=True)
        self.done = self._take_up()
        try:
            self._file = self._part.open("ab")
        except OSError as error:
            raise PredictError(f"{self._part} can't be written: {error.strerror}") from None
        self._saved = time.monotonic()
        if not self._file.tell():
            self._write(self._head)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, one: Classified) -> None:
        """Every few seconds, what was added is made to be on the disk."""
        self.add_row(as_row(one))

    def add_row(self, row: dict[str, Any]) -> None:
        """As `add`, of what `as_row` made elsewhere."""
        self._write(json.dumps(row))
        if time.monotonic() - self._saved > _SAVE_EVERY_S:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._saved = time.monotonic()

    def rows(self) -> Iterator[dict[str, Any]]:
        """All that was added, by earlier runs as well."""
        self._file.flush()
        with self._part.open(encoding="utf-8") as lines:
            next(lines)
            yield from map(json.loads, lines)

    def finish(self, columns: list[str]) -> None:
        """Turn the lines into the table, which takes its place whole."""
        write = _write_parquet if self._output.suffix == ".parquet" else _write_csv
        with staged_file(self._output) as staging:
            write(staging, map(_in_utf8, self.rows()), columns)
        self._part.unlink()

    def _write(self, line: str) -> None:
        self._file.write(line.encode() + b"\n")

    def _take_up(self) -> set[str]:
        """The files that are done; half a line, of a process that was killed, is cut off."""
        if not self._part.exists():
            return set()
        content = self._part.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        head, *lines = whole.decode().splitlines() or [""]
        if head and head != self._head:
            raise PredictError(
                f"{self._part} was started with other settings ({head[:200]}); finish it with "
                "those, or remove it to start over"
            )
        os.truncate(self._part, len(whole))
        return {json.loads(line)["file"] for line in lines}


def columns(top_k: int) -> list[str]:
    ranks = range(1, top_k + 1)
    pairs = [name for rank in ranks for name in (f"label_{rank}", f"probability_{rank}")]
    return ["file", *pairs, "accepted", "distance", "error"]


def check_output(output: Path) -> None:
    """Raise PredictError now for what would keep the table from being written in the end."""
    if output.suffix not in WRITERS:
        raise PredictError(f"{output} must end in {' or '.join(WRITERS)}")
    if output.exists():
        raise PredictError(f"{output} is there already; remove it or choose another --output")
    if output.suffix == ".parquet":
        _pyarrow()


def as_row(one: Classified) -> dict[str, Any]:
    """A row of the table; what it doesn't have is not in it."""
    row: dict[str, Any] = {"file": one.file}
    for rank, prediction in enumerate(one.predictions, start=1):
        row[f"label_{rank}"] = prediction.label
        row[f"probability_{rank}"] = round(prediction.probability, 6)
    if one.accepted is not None:
        row["accepted"] = one.accepted
    if one.distance is not None:
        row["distance"] = round(one.distance, 4)
    return row | ({"error": one.error} if one.error else {})


def read_table(path: Path) -> list[dict[str, Any]]:
    """The rows of a table that `vgg19 predict` wrote; of CSV, all values are text.

    Raises:
        PredictError: it can't be read, or isn't one.
    """
    try:
        if path.suffix == ".parquet":
            rows: list[dict[str, Any]] = _pyarrow()[1].read_table(path).to_pylist()
        else:
            with path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error) as error:  # pyarrow's errors are ValueErrors
        raise PredictError(f"{path} can't be read as a table: {error}") from None
    wanted = {"file", "label_1", "probability_1"}
    if not rows or not wanted <= set(rows[0]):
        raise PredictError(
            f"{path} is no table of 'vgg19 predict': it has no rows with "
            f"{', '.join(sorted(wanted))}"
        )
    return rows


def _in_utf8(row: dict[str, Any]) -> dict[str, Any]:
    """File names may hold other bytes; as escapes, or nobody could read the table."""
    return row | {name: utf8(row[name]) for name in ("file", "error") if name in row}


def _write_csv(path: Path, rows: Iterator[dict[str, Any]], names: list[str]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def _write_parquet(path: Path, rows: Iterator[dict[str, Any]], names: list[str]) -> None:
    pa, parquet = _pyarrow()
    kinds = {name: pa.float32() for name in names if name.startswith("probability_")}
    kinds |= {"accepted": pa.bool_(), "distance": pa.float32()}
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in names])
    with parquet.ParquetWriter(path, schema) as writer:
        while group := list(islice(rows, _ROWS_AT_ONCE)):
            writer.write_table(pa.Table.from_pylist(group, schema))


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise PredictError(
            "Parquet needs the package pyarrow (pip install pyarrow); without it, let --output end "
            "in .csv"
        ) from None
    return pyarrow, parquet
