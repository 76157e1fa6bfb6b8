"""Where a check keeps what it makes, and how large it is."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Scale:
    """image_size: px. images: of the data set. batches: sizes that sessions are timed at.
    seconds: of each measurement. connections: of the clients."""

    image_size: int
    images: int
    batches: tuple[int, ...]
    seconds: float
    connections: int


FULL = Scale(image_size=224, images=3072, batches=(1, 8, 32, 64, 128), seconds=0.5, connections=64)
# The same code in a minute or two on a processor: it shows that the kit runs, and nothing else.
REHEARSAL = Scale(image_size=32, images=48, batches=(1, 2), seconds=0.05, connections=4)


@dataclass(frozen=True)
class Place:
    """The folder of one check.

    Args:
        step: whose figures `add` writes.
    """

    path: Path
    scale: Scale
    step: str = ""

    @property
    def on_gpu(self) -> bool:
        return torch.cuda.is_available()

    @property
    def device(self) -> str:
        return "cuda" if self.on_gpu else "cpu"

    @property
    def data(self) -> Path:
        """Image folder {train,val}/class/file, JPEGs of 500 x 400."""
        return self.path / "data"

    @property
    def weights(self) -> Path:
        """State dict of a VGG-19 that can learn, in float32."""
        return self.path / "start.pth"

    @property
    def bundle(self) -> Path:
        return self.path / "served" / "bundle"

    @property
    def home(self) -> Path:
        """BentoML's, in which `bundle` is the production model."""
        return self.path / "served" / "bentoml"

    @property
    def results(self) -> Path:
        """A line of JSON for each thing that was measured."""
        return self.path / "results.jsonl"

    def add(self, what: str, **figures: object) -> None:
        """Print figures, and write them down at once."""
        row = {"step": self.step, "what": what, **figures, "at": round(time.time(), 1)}
        with self.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, default=str) + "\n")
        words = "  ".join(f"{name} {_short(value)}" for name, value in figures.items())
        print(f"{what:44} {words}", flush=True)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
