"""Judge a finished run again, on its held-out images or on others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from training.data.image_data import load_labelled_images
from training.evaluate.metrics import classification_metrics
from training.loop.checkpoint import load_checkpoint
from training.loop.config import read_config
from training.loop.context import TrainContext, load_data
from training.loop.run import Run, RunError
from training.loop.trainer import make_accelerator
from training.reporter import Reporter


def evaluate_run(path: Path, data: Path | None, reporter: Reporter) -> tuple[dict[str, Any], str]:
    """Metrics of the run's best checkpoint, and what they were measured on.

    Args:
        path: run directory.
        data: folder `class/file` of other images; None: the run's own held-out split.

    Raises:
        RunError: no run there, or its data has changed since.
        DataError, CheckpointError: the images or the checkpoint can't be used.
    """
    run = Run(path)
    run.check_begun()
    config = read_config(run.config)
    model, spec = load_checkpoint(run.best)
    accelerator = make_accelerator("auto", "no")  # this machine's, not the training machine's
    if data is not None:
        images = load_labelled_images(data, spec.labels, spec.preprocessing, reporter)
    else:
        images = load_data(config, reporter)
        check_unchanged(run, images.fingerprint())
    context = TrainContext(config, images, accelerator, reporter)
    source = str(data) if data is not None else images.held_out
    logits, targets = context.predict(model.to(accelerator.device), images.held_out)
    # The best checkpoint of a run that was interrupted is not calibrated yet.
    calibration = run.read_json(run.metrics).get("calibration", {"temperature": 1.0})
    temperature = calibration["temperature"]
    return classification_metrics(logits / temperature, targets, images.labels), source


def check_unchanged(run: Run, fingerprint: str) -> None:
    """Raise RunError unless the run's images are those that it was trained on."""
    recorded = run.read_json(run.data)["fingerprint"]
    if recorded != fingerprint:
        raise RunError(
            f"the images of this run have changed since it was trained (fingerprint "
            f"{fingerprint[:12]}, was {recorded[:12]}), so some may have been trained on; name "
            "images that were not, with --data"
        )
