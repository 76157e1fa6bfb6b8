"""`vgg19 train`, whatever the strategy; `auto` trains with one after another.

    RUN/config.yaml   strategy auto, until it is decided
    RUN/auto.json     what was found so far
    RUN/stages/N/     the runs of the last two stages, as any run is, their epochs done

When unfreezing more no longer pays, the better one's files move to RUN, which is then a run whose
epochs are done, and is finished as one that was stopped there. Killed at any instant, `--resume`
goes on.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from models.bundle.manifest import Provenance
from models.files import staged_directory, staged_file
from models.network.architectures import architecture
from training.auto.judge import Validation, gain
from training.auto.ladder import plan
from training.auto.record import Record, Stage, Wanted, gain_words
from training.data.batch import BatchSource
from training.evaluate.calibration import fit_temperature
from training.evaluate.ood import check_ood_data
from training.loop.config import TrainConfig
from training.loop.config_file import ConfigError, read_config, read_resumed, write_config
from training.loop.context import TrainContext
from training.loop.history import Epoch, best_epoch
from training.loop.layer_table import LayerRow
from training.loop.preflight import check_config
from training.loop.recipe import fine_tune, resume_run
from training.loop.run import Run, check_free, write_json
from training.loop.signals import Terminated, end_on_signals
from training.probe.probe import probe
from training.reporter import Reporter

_STAGES = "stages"
_VALIDATION = "validation.npz"


def train(config: TrainConfig, reporter: Reporter) -> Run:
    """Train as `config` says and fill the run directory `config.output`, see `fine_tune`.

    Raises:
        UserError: the configuration can't be carried out.
        Terminated: SIGINT, SIGTERM or SIGHUP came; the run can be resumed.
    """
    if config.strategy != "auto":
        return fine_tune(config, reporter)
    check_config(config)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:  # torchrun's
        raise ConfigError(
            "strategy auto trains in one process; start it without torchrun, or name the strategy "
            "that 'vgg19 probe' recommends"
        )
    check_free(config.output)
    check_ood_data(config.ood_data)
    found = probe(config, reporter, train="vgg19 train")
    recommended = found.recommendation
    reporter.say(f"auto: {recommended.reason}")
    if found.suspects:
        reporter.warn(
            f"{len(found.suspects)} labels are contradicted by the other images; look at them with "
            f"'vgg19 check-data --labels'"
        )
    rungs = plan(architecture(config.network), recommended, config.weights)
    place = config.output.resolve() if config.output.is_symlink() else config.output
    with staged_directory(place) as staging:
        write_config(config.absolute(), Run(staging).config)
        Record.begin(found, rungs).write(Run(staging).auto)
    try:
        return _climb(Run(config.output), config, reporter, {})
    except Terminated:
        raise
    except Exception:
        if not any(config.output.rglob("checkpoints/*")):
            shutil.rmtree(config.output, ignore_errors=True)  # the first error says more
        raise


def resume(path: Path, reporter: Reporter, changes: Mapping[str, Any] | None = None) -> Run:
    """Go on with the run in `path`, with its own configuration, see `resume_run`."""
    run = Run(path)
    run.check_begun()
    config = read_resumed(run.config, path, changes or {})
    if config.strategy == "auto":
        return _climb(run, config, reporter, changes or {})
    shutil.rmtree(path / _STAGES, ignore_errors=True)  # of a run that was killed when it was moved
    return resume_run(path, reporter, changes)


def can_resume(run: Run) -> bool:
    """Whether there is something of an interrupted run to go on from."""
    return run.state.exists() or run.auto.exists()


def _climb(run: Run, config: TrainConfig, reporter: Reporter, changes: Mapping[str, Any]) -> Run:
    record = Record.read(run.read_json(run.auto))
    try:
        with end_on_signals(run.path):
            while (wanted := record.next()) is not None:
                record = _try(run, record, wanted, config, reporter, changes)
            if record.chosen is None:
                record = record.decided()
                record.write(run.auto)
            chosen = record.stages[record.chosen or 0]
            reporter.say(f"auto: {chosen.name} is kept, since {record.why}")
            _move(run, record)
    except Terminated as terminated:  # of a stage, which is resumed by way of the run
        raise Terminated(run.path, terminated.exit_code - 128) from None
    return resume_run(run.path, reporter, changes)


def _try(
    run: Run,
    record: Record,
    wanted: Wanted,
    config: TrainConfig,
    reporter: Reporter,
    changes: Mapping[str, Any],
) -> Record:
    """Train a stage, or go on with it, and record what came of it."""
    number = len(record.stages)
    reporter.say(f"auto: stage {number + 1} of {len(record.plan)} at most: {wanted.name}")
    stage = _stage(run, number)
    started = time.monotonic()
    if stage.config.is_file():
        if not (stage.path / _VALIDATION).exists():
            resume_run(stage.path, reporter, changes, finish=_validate)
    else:
        update = {
            "output": stage.path,
            "strategy": wanted.strategy,
            "unfreeze": wanted.unfreeze,
            "head_init": "ridge" if config.head_init == "auto" else config.head_init,
        }
        fine_tune(config.model_copy(update=update), reporter, finish=_validate)
    seconds = time.monotonic() - started
    record = record.with_stage(_judged(run, number, wanted, seconds))
    record.write(run.auto)
    latest = record.stages[-1]
    right = f"{latest.val_accuracy:.1%} of {latest.val_images} validation images right"
    words = (right, f"error {latest.val_error:.3f}", gain_words(latest))
    reporter.say(f"auto: {latest.name}: {', '.join(filter(None, words))}")
    for former in range(number - 1):
        shutil.rmtree(_stage(run, former).path, ignore_errors=True)
    return record


def _stage(run: Run, number: int) -> Run:
    return Run(run.path / _STAGES / str(number + 1))


def _validate(
    model: nn.Module,
    source: BatchSource,
    context: TrainContext,
    run: Run,
    table: list[LayerRow],
    history: list[Epoch],
) -> None:
    """Keep what the best model says of the validation images: the end of a stage."""
    logits, targets = context.predict(source, model, "val", shared=False)
    probabilities = (logits / fit_temperature(logits, targets)).softmax(dim=1)
    Validation(probabilities.numpy(), targets.numpy()).write(run.path / _VALIDATION)


def _judged(run: Run, number: int, wanted: Wanted, seconds: float) -> Stage:
    stage = _stage(run, number)
    validation = Validation.read(stage.path / _VALIDATION)
    gained = None
    if number > 0:
        before = Validation.read(_stage(run, number - 1).path / _VALIDATION)
        gained = gain(before, validation)
    history = [Epoch(**row) for row in stage.read_json(stage.metrics)["history"]]
    return Stage(
        **wanted.model_dump(),
        best_epoch=best_epoch(history).epoch,
        epochs=history[-1].epoch,
        val_images=len(validation.targets),
        val_accuracy=validation.accuracy,
        val_error=float(validation.errors.mean()),
        gain=gained,
        seconds=round(seconds, 1),
    )


def _move(run: Run, record: Record) -> None:
    """Make the chosen stage the run. Its configuration comes last: until then the run is auto's."""
    assert record.chosen is not None
    for number in range(len(record.stages)):
        if number != record.chosen:
            shutil.rmtree(_stage(run, number).path, ignore_errors=True)
    stage = _stage(run, record.chosen)
    for path in stage.path.iterdir():
        if path.name not in (stage.config.name, _VALIDATION):
            path.replace(run.path / path.name)
    output = {"output": run.path.absolute()}
    config = read_config(stage.config).model_copy(update=output)
    provenance = Provenance.model_validate(run.read_json(run.provenance))
    trained = provenance.training_config | {"output": str(run.path.absolute())}
    moved = provenance.model_copy(update={"training_config": trained})
    write_json(run.provenance, moved.model_dump(mode="json"))
    with staged_file(run.config) as staging:
        write_config(config, staging)
    shutil.rmtree(run.path / _STAGES)
