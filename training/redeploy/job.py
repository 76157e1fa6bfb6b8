"""`vgg19 redeploy`: retrain on what has come, and put it into production if it deserves that.

A job is a directory `STATE/jobs/ID`. Every step writes what came of it to its `job.json`, and can
be repeated: a job that was killed goes on at the step where it stopped.

job.json      steps with their results and seconds, and in the end the outcome
data.csv      the images with their splits, as 'vgg19 train' reads them
suspects.csv  new images whose labels the others contradict
run/          the training run, with the bundle
report.html   champion against challenger, for people; report.json for machines
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from models.bundle.bundle import open_bundle
from models.bundle.signature import Signer
from models.events import emit
from models.events.announcing import announce_registration
from models.registry import shadowing, store
from training.loop.preflight import check_config, check_weights
from training.loop.run import Run
from training.redeploy.begin import begin_job
from training.redeploy.challenger import export_challenger, train_challenger
from training.redeploy.champion import runs_to_keep
from training.redeploy.config import RedeployConfig
from training.redeploy.drift import drifting
from training.redeploy.in_shadow import begin_shadow, shadow_outcome
from training.redeploy.job_state import JobState, remove_old_jobs, unfinished_job
from training.redeploy.judging import judge_challenger
from training.redeploy.outcome import IN_SHADOW, REFUSED, ROLLED_BACK, Outcome, RedeployError
from training.redeploy.promotion import Builder, build, promote, register, roll_back, verify
from training.redeploy.report import write_redeploy_report
from training.reporter import Reporter


def redeploy(
    config: RedeployConfig,
    reporter: Reporter,
    builder: Builder,
    *,
    wait: bool = False,
    force: bool = False,
) -> Outcome:
    """Do the job, or go on with the one that was interrupted.

    Args:
        builder: used where the configuration asks for a Bento.
        wait: for a job that runs already; else refuse.
        force: train although nothing is new, and nothing drifts.

    Raises:
        RedeployError: another job runs, or production was changed by somebody else meanwhile.
        UserError: a step can't be done; the next call tries it again.
    """
    signer = Signer(config.sign_key) if config.sign_key else None  # told now, not after training
    _check(config)
    with _exclusive(config.state, wait=wait, reporter=reporter):
        job = unfinished_job(config.state)
        if job is None and config.start_on == "drift" and not force:
            alarm = drifting(config.services)
            if alarm is None:
                return Outcome(0, "no drift: none of the services has an alarm")
            reporter.say(f"drift at {alarm}")
        if job is None or not job.has("register"):  # after that, it is to be finished as it is
            begun = begin_job(job, config, reporter, force=force)
            if isinstance(begun, Outcome):
                return begun
            job = begun
        else:
            reporter.say(f"continuing job {job.id}")
        outcome = _do(job, config, signer, reporter, builder)
        remove_old_jobs(config.state, config.keep_jobs, runs_to_keep())
        return outcome


def _check(config: RedeployConfig) -> None:
    """What can be mistyped, before an image is read."""
    weights = None
    if config.start_from not in ("pretrained", "champion"):
        check_weights(config.start_from, "start_from")
        weights = config.start_from
    check_config(config.train_config(config.data[0], config.state, weights))


def _do(
    job: JobState,
    config: RedeployConfig,
    signer: Signer | None,
    reporter: Reporter,
    builder: Builder,
) -> Outcome:
    run = Run(job.path / "run")
    for folder in (job.path, run.path):
        for leftover in folder.glob(".*"):  # of a write that was killed
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    rule = None if job.champion is None else config.shadow
    if rule is not None and not job.has("train"):
        shadowing.check_place()  # told now, not after training
    job.step("train", lambda: train_challenger(job, run, config, reporter))
    job.step("export", lambda: export_challenger(run, reporter))
    bundle = open_bundle(run.bundle)
    gate = job.step("gate", lambda: judge_challenger(job, run, bundle, config, reporter))
    version = store.version_of(bundle)
    job.step("register", lambda: register(run.bundle, version, gate["refused"], signer))
    tag = f"{store.MODEL_NAME}:{version}"
    announce_registration(tag)
    if gate["refused"]:
        _tell_refusal(job, tag, gate["refused"], {"gate": gate["verdicts"]})
        outcome = Outcome(REFUSED, f"{tag} is refused: {gate['refused']}; production is untouched")
        return _finish(job, "refused", outcome, reporter)
    if config.build is not None:
        job.step("build", lambda: build(version, config, reporter, builder))
    if rule is not None:
        job.step("shadow", lambda: begin_shadow(job, version, rule, reporter))
        shadowed = shadow_outcome(job, version)
        if shadowed.waits:
            return Outcome(IN_SHADOW, f"{tag} is in production's shadow: {shadowed.reason}")
        if shadowed.reason:
            _tell_refusal(job, tag, shadowed.reason, {"shadow": shadowed.verdicts})
            outcome = Outcome(REFUSED, f"{tag} is refused: {shadowed.reason}")
            return _finish(job, "refused", outcome, reporter)
    job.step("promote", lambda: promote(job, version, gate, reporter))
    verified = job.step("verify", lambda: verify(bundle, version, config, reporter))
    if verified["failed"]:
        back = job.step("rollback", lambda: roll_back(job, version, verified, config, reporter))
        outcome = Outcome(ROLLED_BACK, f"{tag} failed: {verified['failed']}; {back['result']}")
        return _finish(job, "rolled back", outcome, reporter)
    replaced = f", it was {store.MODEL_NAME}:{job.champion}" if job.champion else ""
    return _finish(job, "promoted", Outcome(0, f"production is {tag}{replaced}"), reporter)


def _tell_refusal(job: JobState, tag: str, why: str, verdicts: dict[str, Any]) -> None:
    emit(
        "model.refused",
        tag,
        {"model": tag, "job": job.id, "why": why, **verdicts},
        id=f"{job.id}-refused",  # a job that goes on after it was killed tells it again
    )


def _finish(job: JobState, outcome: str, result: Outcome, reporter: Reporter) -> Outcome:
    report = write_redeploy_report(job, outcome, result.message)
    job.finish(outcome, result.message)
    reporter.say(f"report: {report}")
    return result


@contextmanager
def _exclusive(state: Path, *, wait: bool, reporter: Reporter) -> Iterator[None]:
    """One job at a time. The lock is the kernel's: it ends with its process, however that ends."""
    state.mkdir(parents=True, exist_ok=True)
    with (state / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                raise RedeployError(
                    f"another job is running in {state}; wait for it with --wait, or give this "
                    "one another 'state' directory"
                ) from None
            reporter.say("another job is running; waiting for it to finish")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
