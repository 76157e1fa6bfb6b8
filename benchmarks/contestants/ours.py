"""This project's job, by the command that a user types, with the tutorial's hyper-parameters.

The features go to `cache` in the working directory: the first run there is cold, a later one warm.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import yaml

from benchmarks.contestants.job import Job, Outcome


def main() -> None:
    job = Job.read(sys.argv[1])
    run = Path(sys.argv[2]).with_suffix(".run")
    config = {
        "data": job.data,
        "output": str(run),
        "weights": job.weights,
        "strategy": job.strategy,
        "image_size": job.image_size,
        "resize_size": job.image_size,
        "epochs": job.epochs,
        "batch_size": job.batch_size,
        "learning_rate": job.learning_rate,
        "pretrained_learning_rate": job.learning_rate,
        "weight_decay": job.weight_decay,
        "seed": job.seed,
        "cache_dir": "cache",
        # What the tutorial's loop doesn't do:
        "augment": "none",
        "label_smoothing": 0.0,
        "schedule": "constant",
        "warmup_fraction": 0.0,
        "clip_norm": None,
        "head_init": "random",
    }
    Path("config.yaml").write_text(yaml.safe_dump(config))
    subprocess.run(
        [sys.executable, "-m", "cli.main", "train", "--config", "config.yaml"], check=True
    )
    metrics = json.loads((run / "metrics.json").read_text())
    last, images = metrics["history"][-1], metrics["held_out"]["images"]
    Outcome(last["val_loss"], round(last["val_accuracy"] * images), images).write(sys.argv[2])


if __name__ == "__main__":
    main()
