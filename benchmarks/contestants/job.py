"""What the contestants are told, and what they answer."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Job:
    """The same for all: data, initial weights and hyper-parameters.

    Args:
        data: folder {train,val}/class/file.
        weights: state dict (.pth) to begin with.
        strategy: `fc` (FC1, FC2 and a new head) or `full`.
    """

    data: str
    weights: str
    strategy: str
    image_size: int
    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    seed: int

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @staticmethod
    def read(path: str) -> Job:
        return Job(**json.loads(Path(path).read_text()))


@dataclass(frozen=True)
class Outcome:
    """On the validation images after the last epoch. loss: mean cross-entropy, nats."""

    loss: float
    correct: int
    images: int

    def write(self, path: str) -> None:
        Path(path).write_text(json.dumps(asdict(self)))
