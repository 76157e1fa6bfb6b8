"""Judge a finished run again, on its held-out images or on others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.data.image_data import ImageData, load_labelled_images
from training.evaluate.metrics import classification_metrics
from training.loop.accelerator import make_accelerator
from training.loop.checkpoint import load_checkpoint
from training.loop.config_file import read_config
from training.loop.context import TrainContext, load_data
from training.loop.image_batches import ImageBatches
from training.loop.run import Run, RunError
from training.reporter import Reporter


def evaluate_run(
    path: Path,
    data: Path | None,
    reporter: Reporter,
    *,
    columns: Mapping[str, Any] | None = None,
    allow_conflicting_labels: bool = False,
) -> tuple[dict[str, Any], str]:
    """Metrics of the run's best checkpoint, and what they were measured on.

    Args:
        path: run directory.
        data: other images, as `training.data.sources.find_images` takes them; their test split is
            judged where there is one. None: the run's own held-out split.
        columns: of `data`, as `Columns.with_given` takes them; the others are those of the run's
            configuration.
        allow_conflicting_labels: judge also images of `data` that have two labels in a table.

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
        images, source = load_labelled_images(
            data, spec.labels, spec.preprocessing, reporter,
            columns=config.columns().with_given(**(columns or {})),
            allow_conflicting_labels=allow_conflicting_labels,
        )  # fmt: skip
        _warn_of_trained_on(run, images, reporter)
    else:
        images = load_data(config, reporter)
        check_unchanged(run, images.fingerprint())
        source = f"the run's {images.held_out} split"
    context = TrainContext(config, images, accelerator, reporter)
    logits, targets = context.predict(
        ImageBatches(context), model.to(accelerator.device), images.held_out
    )
    # The best checkpoint of a run that was interrupted is not calibrated yet.
    calibration = run.read_json(run.metrics).get("calibration", {"temperature": 1.0})
    temperature = calibration["temperature"]
    return classification_metrics(logits / temperature, targets, images.labels), source


def _warn_of_trained_on(run: Run, images: ImageData, reporter: Reporter) -> None:
    """Numbers on images that the run was trained on, or chosen by, say too much good of it."""
    known = {file["sha256"] for file in run.read_json(run.data)["files"] if file["split"] != "test"}
    count = sum(sample.sha256 in known for sample in images.samples)
    if count:
        reporter.warn(
            f"the run was trained or validated on {count} of these {len(images.samples)} images, "
            "so the numbers are too optimistic"
        )


def check_unchanged(run: Run, fingerprint: str) -> None:
    """Raise RunError unless the run's images are those that it was trained on."""
    recorded = run.read_json(run.data)["fingerprint"]
    if recorded != fingerprint:
        raise RunError(
            f"the images of this run have changed since it was trained (fingerprint "
            f"{fingerprint[:12]}, was {recorded[:12]}), so some may have been trained on; name "
            "images that were not, with --data"
        )
