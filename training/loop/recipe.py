"""`fine_tune(config)`: a run, from labelled images to checkpoints, metrics and a report."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from training.evaluate.ood import check_ood_data
from training.features.batches import CachedFeatures
from training.loop.accelerator import make_accelerator
from training.loop.advice import advice
from training.loop.checkpointer import Checkpointer, restore
from training.loop.config import TrainConfig
from training.loop.config_file import read_resumed
from training.loop.context import TrainContext, load_data, resolved
from training.loop.epochs import train_epochs
from training.loop.finish import Finish, judge_and_report
from training.loop.history import Epoch
from training.loop.layer_table import layer_table
from training.loop.precision import cpu_computes_in_bf16
from training.loop.preflight import check_config, check_decided
from training.loop.processes import Processes, check_reachable
from training.loop.run import Run, RunError, check_free
from training.loop.run_directory import check_same_images, run_directory
from training.loop.setup import set_up, trainable_in, trains_in_bf16
from training.loop.signals import Terminated, end_on_signals, stop_on_signals
from training.loop.state import is_finished, read_state
from training.loop.trainer import TrainingError, TrainState
from training.reporter import Reporter, SilentReporter


def fine_tune(
    config: TrainConfig,
    reporter: Reporter,
    *,
    resume: bool = False,
    finish: Finish = judge_and_report,
) -> Run:
    """Train as `config` says and fill the run directory `config.output`.

    The epoch with the best validation score is saved as `best`, calibrated on the validation split,
    and judged on the held-out images: the test split, or validation where there is none.

    Args:
        resume: go on with the run in `config.output`, which `config` was read from.
        finish: another one leaves a run whose epochs are done, which `resume_run` finishes.

    Raises:
        UserError: the configuration can't be carried out. Nothing is left behind unless an
            epoch was finished, or there is a state to go on from.
        Terminated: SIGINT, SIGTERM or SIGHUP came; the run can be resumed.
    """
    if not resume:
        check_config(config)
    check_decided(config)
    config = resolved(config)
    if not resume:
        check_free(config.output)
        check_ood_data(config.ood_data)
    tracker = _tracker(config)
    accelerator = make_accelerator(
        config.device, config.mixed_precision, log_with=tracker, project_dir=str(config.output)
    )
    if not accelerator.is_main_process:
        reporter = SilentReporter()
    processes = Processes(accelerator)
    data = processes.from_main(lambda: load_data(config, reporter))
    check_reachable(data)
    context = TrainContext(config, data, accelerator, reporter)
    run = Run(config.output)
    if resume:
        check_same_images(context, run)
    saved = read_state(run.state) if resume and run.state.exists() else None
    trainer, table = set_up(context, initial_weights=saved is None)
    reporter.say(_summary(context))
    if trains_in_bf16(context):
        reporter.say(
            "convolutions train in bf16, as this processor can, and other layers in float32 "
            "(--mixed-precision no: all of them)"
        )
    on_cpu = accelerator.device.type == "cpu"
    if config.mixed_precision == "auto" and on_cpu and not cpu_computes_in_bf16():
        reporter.say("computed in float32: this processor has neither AVX512_BF16 nor AMX")
    reporter.say(layer_table(table, folded=not reporter.verbose))
    for sentence in advice(config, context.data.counts()["train"], table):
        reporter.warn(sentence)
    state, history = TrainState(), list[Epoch]()
    if saved is not None:
        state, history = restore(saved, trainer, context)
    source = CachedFeatures(context, trainer.model)
    first = min(state.epoch, config.epochs)
    epochs = range(first, config.epochs + 1)
    source.plan([trainable_in(context, epoch) for epoch in epochs], first_epoch=first)
    with (
        stop_on_signals(context.stop, tell=accelerator.is_main_process),
        run_directory(context, resume=resume) as run,
    ):
        if tracker:
            settings = {key: str(value) for key, value in config.model_dump().items()}
            accelerator.init_trackers("vgg19", config=settings)
        checkpointer = Checkpointer(trainer, context, run)
        if resume and accelerator.is_main_process:
            checkpointer.recover(history)
        done = saved is not None and is_finished(saved)
        if not done:
            try:
                train_epochs(trainer, source, context, processes, checkpointer, state, history)
            except Exception:
                checkpointer.leave_best()
                raise
        with end_on_signals(run.path):
            if accelerator.is_main_process:
                model = checkpointer.load_best() if done else checkpointer.finish(history)
            if context.stop.requested:  # in the last epoch, where no step came after it
                raise Terminated(run.path, context.stop.number)
            if accelerator.is_main_process:
                finish(model, source, context, run, table, history)
            processes.wait()
        accelerator.end_training()  # trackers, and the group of processes
    return run


def resume_run(
    path: Path,
    reporter: Reporter,
    changes: Mapping[str, Any] | None = None,
    *,
    finish: Finish = judge_and_report,
) -> Run:
    """Go on with the run in `path`, with its own configuration.

    Args:
        changes: of fields in `training.loop.config.RESUMABLE`.
        finish: see `fine_tune`.

    Raises:
        RunError: it is not a run, it is finished, or its images have changed.
        ConfigError: a change isn't allowed.
    """
    run = Run(path)
    run.check_begun()
    config = read_resumed(run.config, path, changes or {})
    if run.report.exists():
        raise RunError(f"{path} is finished; there is nothing to resume")
    return fine_tune(config, reporter, resume=True, finish=finish)


def _tracker(config: TrainConfig) -> str | None:
    """What logs each epoch besides the run's own files; None: nothing does.

    Raises:
        TrainingError: it is not installed.
    """
    if config.tracker == "none":
        return None
    if find_spec(config.tracker) is None:
        # Accelerate would warn and train on without it.
        raise TrainingError(
            f"tracker is '{config.tracker}', which is not installed; run 'pip install "
            f"{config.tracker}' or choose another one"
        )
    return config.tracker


def _summary(context: TrainContext) -> str:
    config, data = context.config, context.data
    sizes = {split: len(data.split(split)) for split in ("train", "val", "test")}
    processes = context.accelerator.num_processes
    return (
        f"{context.architecture.title}, weights {config.weights}, strategy {config.strategy}, on "
        f"{context.accelerator.device.type}{f' x {processes}' if processes > 1 else ''}; "
        f"{len(data.labels)} classes; {sizes['train']} images to train, {sizes['val']} to "
        f"validate, {sizes['test']} to test, at {config.image_size} px, resize {config.resize}"
    )
