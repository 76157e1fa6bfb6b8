"""Create a run directory, or enter it again."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch

from models.files import staged_directory
from training.loop.config_file import write_config
from training.loop.context import TrainContext
from training.loop.run import (
    Run,
    RunError,
    check_free,
    record_provenance,
    write_held_out,
    write_json,
)
from training.loop.setup import computed_in_bf16

# The largest batch of the parity proof (models.export.onnx_export.PARITY_BATCH_SIZES).
_KEPT_HELD_OUT_IMAGES = 32


@contextmanager
def run_directory(context: TrainContext, *, resume: bool) -> Iterator[Run]:
    """The run's directory, made by the main process, entered by all.

    Removed again if it comes to neither a checkpoint nor a state to resume from.

    Raises:
        RunError: it is taken.
    """
    run = Run(context.config.output)
    if not context.accelerator.is_main_process:
        context.accelerator.wait_for_everyone()
        yield run
        return
    if not resume:
        _create(context, run)
    try:
        context.accelerator.wait_for_everyone()
        with _named(run):
            yield run
    except BaseException:
        if not run.best.exists() and not run.state.exists():
            shutil.rmtree(run.path, ignore_errors=True)  # the first error says more
        raise


@contextmanager
def _named(run: Run) -> Iterator[None]:
    """A write that finds the disk full names no file: name the run."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            error.filename = str(run.path)
        raise


def _create(context: TrainContext, run: Run) -> None:
    """Whole or not at all: a run that was killed meanwhile could be resumed, but not exported."""
    if run.path.is_symlink():  # stays one, and what it names becomes the run
        run = Run(run.path.resolve())
    check_free(run.path)  # again: another run may have taken it since
    run.path.mkdir(parents=True, exist_ok=True)
    number = None
    try:
        with _named(run), staged_directory(run.path) as staging:
            number = staging.stat().st_ino
            _fill(context, Run(staging))
    except BaseException:
        if run.path.stat().st_ino == number:  # a signal came when it had just taken its place
            shutil.rmtree(run.path, ignore_errors=True)
        else:
            with suppress(OSError):  # not empty: somebody else's
                run.path.rmdir()
        raise


def _fill(context: TrainContext, run: Run) -> None:
    absolute = context.config.absolute()
    write_config(absolute, run.config)
    write_json(run.data, context.data.describe())
    provenance = record_provenance(
        absolute, context.data.fingerprint(), in_bf16=computed_in_bf16(context)
    )
    write_json(run.provenance, provenance.model_dump(mode="json"))
    _keep_held_out_images(context, run)


def check_same_images(context: TrainContext, run: Run) -> None:
    """Raise RunError where a run is to be resumed with other images."""
    recorded = run.read_json(run.data)["fingerprint"]
    if recorded != context.data.fingerprint():
        raise RunError(
            f"the images in {context.config.data} have changed since {run.path} was begun "
            f"(fingerprint {context.data.fingerprint()[:12]}, was {recorded[:12]}); begin a new run"
        )


def _keep_held_out_images(context: TrainContext, run: Run) -> None:
    """Keep some held-out images, spread over the classes, so that export needs only the run."""
    dataset = context.dataset(context.data.held_out)
    count = min(_KEPT_HELD_OUT_IMAGES, len(dataset))
    indices = [i * len(dataset) // count for i in range(count)]
    images = torch.stack([dataset.pixels(index) for index in indices])
    targets = torch.tensor([dataset.targets[index] for index in indices])
    write_held_out(run.held_out, images.numpy(), targets.numpy())
