"""The end of a run: its best model is calibrated, judged and reported on."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Protocol

from torch import nn

from models.bundle.metrics import weaknesses
from training.data.batch import BatchSource
from training.evaluate.calibration import fit_temperature
from training.evaluate.drift_reference import drift_reference
from training.evaluate.metrics import classification_metrics
from training.evaluate.ood import find_acceptance, summary
from training.loop.context import TrainContext
from training.loop.history import Epoch, best_epoch
from training.loop.layer_table import LayerRow
from training.loop.run import Run, write_json
from training.reports.training import write_report


class Finish(Protocol):
    """What is done with the best model of a run when its epochs are done; in the main process."""

    def __call__(
        self,
        model: nn.Module,
        source: BatchSource,
        context: TrainContext,
        run: Run,
        table: list[LayerRow],
        history: list[Epoch],
    ) -> None: ...


def judge_and_report(
    model: nn.Module,
    source: BatchSource,
    context: TrainContext,
    run: Run,
    table: list[LayerRow],
    history: list[Epoch],
) -> None:
    """Calibrate the best model, judge it, and write metrics and report: the run is finished."""
    val_logits, val_targets = context.predict(source, model, "val", shared=False)
    temperature = fit_temperature(val_logits, val_targets)
    logits, targets = val_logits, val_targets
    if context.data.held_out != "val":
        logits, targets = context.predict(source, model, context.data.held_out, shared=False)
    before = classification_metrics(logits, targets, context.data.labels)
    held_out = classification_metrics(logits / temperature, targets, context.data.labels)
    statistics, acceptance = find_acceptance(model, source, context, temperature, history[-1].epoch)
    statistics.write(run.feature_statistics)
    reference = drift_reference(model, source, context, temperature, statistics, acceptance)
    reference.write(run.reference)
    best = best_epoch(history)
    metrics: dict[str, Any] = {
        "best_epoch": best.epoch,
        "held_out": {"split": context.data.held_out, **held_out},
        "calibration": {
            "temperature": temperature,
            "fitted_on": len(val_targets),
            "expected_calibration_error_before": before["expected_calibration_error"],
            "expected_calibration_error": held_out["expected_calibration_error"],
        },
        "acceptance": acceptance,
        **{
            name: run.read_json(path)
            for name, path in {"head": run.head, "auto": run.auto}.items()
            if path.is_file()
        },
        "history": [asdict(epoch) for epoch in history],
    }
    write_json(run.metrics, metrics)
    write_report(
        model, source, run, context, table, metrics, (logits / temperature).softmax(dim=1), targets
    )
    run.state.unlink(missing_ok=True)
    context.reporter.say(
        f"accuracy on {context.data.held_out} ({held_out['images']} images, epoch {best.epoch}): "
        f"{held_out['accuracy']:.1%}; calibration error "
        f"{held_out['expected_calibration_error']:.3f} (temperature {temperature:.2f})"
    )
    context.reporter.say(summary(acceptance))
    for weakness in weaknesses(held_out):
        context.reporter.warn(weakness)
    context.reporter.say(
        f"run written to {run.path}, look at {run.report}; next: vgg19 export {run.path}"
    )
