"""New images with labels that the others contradict, before anything is trained on them.

All images are looked at together, held-out ones as well, since wrong labels there deceive the gate;
but only those are doubted that the champion doesn't know.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.bundle.bundle import Bundle
from models.linear.predictions import Predictions, doubt
from training.data.image_data import ImageData
from training.loop.config import TrainConfig
from training.probe.probe import probe
from training.probe.suspects import Suspect
from training.redeploy.contents import COLUMN, read_contents, write_contents
from training.reporter import Reporter

COLUMNS = (COLUMN, "file", "label", "suggested", "margin")
_PUT_ASIDE = "put-aside.csv"
# Fewer known images say too little of how well labels can be predicted.
_LEAST_KNOWN = 50


@dataclass(frozen=True)
class Doubted:
    """What was found among the new images.

    Args:
        new: how many were looked at.
        rows: of the suspects, with the keys `COLUMNS`, the highest margin first.
        why_not: why they may be right after all; None where nothing speaks for it.
    """

    new: int
    rows: tuple[Mapping[str, Any], ...]
    why_not: str | None

    def as_json(self, *, put_aside: bool) -> dict[str, Any]:
        return {
            "new": self.new,
            "files": [dict(row) for row in self.rows],
            "doubt": self.why_not,
            "put_aside": put_aside,
        }

    def write(self, path: Path) -> None:
        write_contents(self.rows, COLUMNS, path)


def look_for_suspects(
    images: ImageData,
    config: TrainConfig,
    champion: Bundle | None,
    trusted: Collection[str],
    reporter: Reporter,
) -> Doubted:
    """Probe all images, and list the new ones whose labels the others contradict.

    Args:
        config: of the training to come; its weights see the images.
        champion: whose images are known; None: all are new.
        trusted: SHA-256 of images that aren't doubted.
    """
    seen = champion.seen() if champion is not None else None
    known = np.array(
        [
            seen is not None and (seen.trained(one.sha256) or seen.in_holdout(one.sha256))
            for one in images.samples
        ],
        np.bool_,
    )
    if known.all():
        return Doubted(0, (), None)
    together = tuple(replace(sample, split="train") for sample in images.samples)
    found = probe(config, reporter, train="vgg19 train", data=replace(images, samples=together))
    is_new = {
        sample.path: sample.sha256
        for sample, is_known in zip(images.samples, known.tolist(), strict=True)
        if not is_known and sample.sha256 not in trusted
    }
    rows = [_row(one, is_new[one.path]) for one in found.suspects if one.path in is_new]
    judging = known if known.sum() >= _LEAST_KNOWN else np.ones_like(known)
    return Doubted(int((~known).sum()), tuple(rows), doubt(_of(found.best.predictions, judging)))


def put_aside(state: Path) -> set[str]:
    """SHA-256 of the images that earlier jobs have put aside."""
    table = state / _PUT_ASIDE
    return read_contents(table) if table.exists() else set()


def add_to_put_aside(state: Path, doubted: Doubted) -> Path:
    """Returns the table, which has those of earlier jobs as well."""
    table, before = state / _PUT_ASIDE, []
    if table.exists():
        # People may have looked at it, with a program that has marked the encoding or added a note.
        with table.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as lines:
            before = [{one: row.get(one) for one in COLUMNS} for row in csv.DictReader(lines)]
    write_contents([*before, *doubted.rows], COLUMNS, table)
    return table


def _row(suspect: Suspect, sha256: str) -> dict[str, Any]:
    return {
        COLUMN: sha256,
        "file": str(suspect.path),
        "label": suspect.label,
        "suggested": suspect.suggested,
        "margin": round(suspect.margin, 3),
    }


def _of(predictions: Predictions, rows: NDArray[np.bool_]) -> Predictions:
    return Predictions(*(getattr(predictions, one.name)[rows] for one in fields(predictions)))
