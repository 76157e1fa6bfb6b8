"""The challenger: the run that trains it, and its bundle."""

from __future__ import annotations

import shutil
from typing import Any

from models.bundle.bundle import Bundle, open_bundle
from training.auto.train import can_resume, resume, train
from training.export.bundle import export_run
from training.loop.run import Run
from training.loop.signals import Terminated
from training.redeploy.champion import starting_weights
from training.redeploy.config import RedeployConfig
from training.redeploy.job_state import JobState
from training.redeploy.outcome import JobTerminatedError
from training.reporter import Reporter


def train_challenger(
    job: JobState, run: Run, config: RedeployConfig, reporter: Reporter
) -> dict[str, Any]:
    """Train, or go on with a run that was interrupted.

    Raises:
        JobTerminatedError: SIGINT, SIGTERM or SIGHUP came; the run can be resumed.
        RedeployError: see `starting_weights`.
    """
    try:
        if run.report.exists():  # killed between its end and the record of it
            pass
        elif can_resume(run):
            resume(run.path, reporter)
        else:
            shutil.rmtree(run.path, ignore_errors=True)  # of a run that had saved nothing yet
            weights = starting_weights(config, job.champion)
            train(config.train_config(job.path / "data.csv", run.path, weights), reporter)
    except Terminated as terminated:
        raise JobTerminatedError(terminated.exit_code) from None
    metrics = run.read_json(run.metrics)
    return {"best_epoch": metrics["best_epoch"], "epochs": metrics["history"][-1]["epoch"]}


def export_challenger(run: Run, reporter: Reporter) -> dict[str, Any]:
    """Make the run's bundle, unless it is there, and tell how close ONNX is to PyTorch."""
    bundle = _bundle_of(run, reporter)
    parity = bundle.metrics()["onnx_parity"]["max_probability_difference"]
    reporter.say(f"exported; ONNX equals PyTorch to {parity:.1e}")
    return {"parity": parity}


def _bundle_of(run: Run, reporter: Reporter) -> Bundle:
    if run.bundle.exists():
        return open_bundle(run.bundle)
    return export_run(run, reporter=reporter)[0]
