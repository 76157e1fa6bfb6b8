"""What the workers of all replicas count while a rollout runs: a file for each, summed by readers.

Each worker replaces a small file of its own beside the versions, `.tally-ROLLOUT-WORKER.json`, when
something has changed, every few seconds at most. Nobody else writes that file, so there is no lock,
and nothing is lost but the last seconds of a worker that was killed. Prometheus has the same
numbers, but the rule that decides about a promotion would need a server that keeps them.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError

from models.files import staged_file
from models.monitoring.comparison import Comparison

T = TypeVar("T", bound=BaseModel)

State = Literal["loading", "running", "ended", "failed"]
# With two dots: what a killed process left of writing it.
_NAME = re.compile(r"\.{1,2}(tally|pictures)-(?P<rollout>[0-9a-f]+)-.+")


class ShadowTally(BaseModel):
    """One worker's.

    state: of the shadow in this worker. reason: why it failed. labels: those that clients told this
    worker (`POST /feedback`), by the key of an image, for whoever compared that image.
    """

    worker: str
    state: State = "loading"
    reason: str = ""
    comparison: Comparison = Field(default_factory=Comparison)
    labels: dict[str, str] = Field(default_factory=dict)


class Picture(BaseModel):
    """An image on which the two differ, for people to look at.

    png: what production saw, base64. difference: how much, see `serving.rollout.shadow`.
    """

    png: str
    difference: float
    production: str
    candidate: str
    production_confidence: float
    candidate_confidence: float


class Pictures(BaseModel):
    """Those of one worker, the most different first."""

    pictures: list[Picture] = Field(default_factory=list)


def write_tally(directory: Path, rollout: str, worker: str, tally: str) -> None:
    """`tally`: as JSON, which its owner makes while nobody counts."""
    _write(directory / f".tally-{rollout}-{worker}.json", tally)


def write_pictures(directory: Path, rollout: str, worker: str, pictures: Pictures) -> None:
    text = pictures.model_dump_json()
    _write(directory / f".pictures-{rollout}-{worker}.json", text)


def read_tallies(directory: Path, rollout: str, kind: type[T]) -> list[T]:
    """Of all workers that have counted; a file that is damaged counts nothing."""
    return _read(directory, f".tally-{rollout}-*.json", kind)


def read_pictures(directory: Path, rollout: str) -> list[Picture]:
    """Of all workers, the most different first."""
    found = _read(directory, f".pictures-{rollout}-*.json", Pictures)
    pictures = [picture for one in found for picture in one.pictures]
    return sorted(pictures, key=lambda picture: -picture.difference)


def total(tallies: list[ShadowTally]) -> Comparison:
    """What all of them counted, together."""
    result = Comparison()
    for tally in tallies:
        result.merge(tally.comparison)
    return result


def remove_tallies(directory: Path, keep: str) -> None:
    """Remove what other rollouts than `keep` left behind."""
    for file in directory.glob(".*"):
        match = _NAME.fullmatch(file.name)
        if match is not None and match["rollout"] != keep:
            file.unlink(missing_ok=True)


def _write(file: Path, text: str) -> None:
    with staged_file(file) as staging:
        staging.write_text(text, encoding="utf-8")


def _read(directory: Path, pattern: str, kind: type[T]) -> list[T]:
    found: list[T] = []
    for file in sorted(directory.glob(pattern)):
        with suppress(OSError, ValidationError):
            found.append(kind.model_validate_json(file.read_bytes()))
    return found
