"""Labels that are probably wrong: those that the other images contradict."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.linear.predictions import MARGIN, Predictions
from models.linear.ridge import Design
from training.data.image_data import ImageData

NEAREST = 3
_COLUMNS = ("file", "label", "suggested", "margin")


@dataclass(frozen=True)
class Neighbour:
    """A training image that lies near another one in the features."""

    file: str
    path: Path
    label: str


@dataclass(frozen=True)
class Suspect:
    """An image whose label the others contradict. `file`: relative within the data."""

    file: str
    path: Path
    label: str
    suggested: str
    margin: float
    nearest: tuple[Neighbour, ...]


def find_suspects(
    data: ImageData, design: Design, predictions: Predictions, *, shown: int
) -> list[Suspect]:
    """The training images with suspect labels, the highest margin first.

    Args:
        design: the features of the depth at which the predictions were made.
        shown: for so many of them the nearest training images are looked up.
    """
    order = np.argsort(-predictions.margin, kind="stable")
    rows = order[predictions.margin[order] > MARGIN]
    neighbours = [*nearest(design, rows[:shown], NEAREST)] if len(rows) else []
    samples = data.split("train")

    def neighbour(row: int) -> Neighbour:
        sample = samples[row]
        return Neighbour(data.name(sample.path), sample.path, sample.label)

    return [
        Suspect(
            file=data.name(samples[row].path),
            path=samples[row].path,
            label=samples[row].label,
            suggested=data.labels[int(predictions.suggested[row])],
            margin=float(predictions.margin[row]),
            nearest=tuple(map(neighbour, neighbours[place])) if place < len(neighbours) else (),
        )
        for place, row in enumerate(rows.tolist())
    ]


def nearest(design: Design, rows: NDArray[np.int64], count: int) -> list[list[int]]:
    """For each of these rows, the rows of the nearest others, by Euclidean distance."""
    wanted = design.features[rows].astype(np.float64)
    squares = np.square(wanted).sum(axis=1)
    found = np.empty((len(rows), 0), np.int64)
    distances = np.empty((len(rows), 0))
    for block, features, _ in design.blocks():
        new = squares[:, None] + np.square(features).sum(axis=1) - 2 * wanted @ features.T
        new[rows[:, None] == block] = np.inf  # itself
        found = np.hstack([found, np.broadcast_to(block, new.shape)])
        distances = np.hstack([distances, new])
        best = np.argsort(distances, axis=1, kind="stable")[:, :count]
        found = np.take_along_axis(found, best, axis=1)
        distances = np.take_along_axis(distances, best, axis=1)
    others = len(design) - 1
    return [row[:others] for row in found.tolist()]


def write_suspects(suspects: Sequence[Suspect], path: Path) -> None:
    """A CSV file that `vgg19 train --exclude` reads: a row for each, the worst first."""
    # Names of files may hold any bytes.
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        for suspect in suspects:
            row = (suspect.file, suspect.label, suspect.suggested, f"{suspect.margin:.3f}")
            writer.writerow(row)
