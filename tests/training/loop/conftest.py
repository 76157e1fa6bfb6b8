"""A run that takes a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from testing.images import write_image_folder
from training.loop.config import TrainConfig
from training.loop.config_file import load_config


def config(tmp_path: Path, **changes: Any) -> TrainConfig:
    if not (tmp_path / "data").exists():
        write_image_folder(tmp_path / "data", {"blue": 6, "green": 6, "red": 6})
    values = {
        "data": tmp_path / "data",
        "output": tmp_path / "run",
        "weights": "none",
        "strategy": "head",
        "head_init": "random",  # an epoch begins with its first step
        "image_size": 32,
        "batch_size": 8,
        "epochs": 1,
    }
    return load_config(None, values | changes)
