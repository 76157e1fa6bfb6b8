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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from models.bundle.bundle import Bundle, open_bundle
from models.bundle.signature import Signer
from models.errors import UserError
from models.events import emit
from models.events.announcing import announce_promotions, announce_registration
from models.monitoring.verdict import reason
from models.registry import store
from training.auto.train import can_resume, resume, train
from training.data.checks import Sample
from training.data.splits import SplitRule
from training.export.bundle import export_run
from training.loop.checkpoint import weights_digest
from training.loop.preflight import check_config, check_weights
from training.loop.run import Run
from training.loop.signals import Terminated
from training.redeploy.captured import labelled_images
from training.redeploy.compare import compare
from training.redeploy.config import RedeployConfig
from training.redeploy.contents import COLUMN, read_contents
from training.redeploy.drift import drifting
from training.redeploy.gate import judge
from training.redeploy.in_shadow import begin_shadow, shadow_outcome
from training.redeploy.ingest import Ingested, ingest, write_csv
from training.redeploy.job_state import JobState, finished_jobs, remove_old_jobs, unfinished_job
from training.redeploy.report import disagreements, write_redeploy_report
from training.redeploy.smoke_test import SmokeTestError, smoke_test
from training.redeploy.suspects import (
    Doubted,
    add_to_put_aside,
    look_for_suspects,
    put_aside,
)
from training.reporter import Reporter

REFUSED, ROLLED_BACK, IN_SHADOW = 3, 4, 5  # exit codes


class RedeployError(UserError):
    """The job can't go on."""


class JobTerminatedError(UserError):
    """A signal came while it trained; what was reached is saved."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("terminated; run the same command again to continue the job")
        self.exit_code = exit_code


@dataclass(frozen=True)
class Outcome:
    """What a job came to: its exit code, and a line for people."""

    exit_code: int
    message: str


class Builder(Protocol):
    """Makes a Bento of a registered model, and an image of a Bento."""

    def build(self, reference: str, flavour: Literal["cpu", "gpu"]) -> str: ...
    def containerize(self, bento: str, image: str, backend: str) -> None: ...


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
            begun = _begin(job, config, reporter, force=force)
            if isinstance(begun, Outcome):
                return begun
            job = begun
        else:
            reporter.say(f"continuing job {job.id}")
        outcome = _do(job, config, signer, reporter, builder)
        remove_old_jobs(config.state, config.keep_jobs, _runs_to_keep())
        return outcome


def _begin(
    interrupted: JobState | None, config: RedeployConfig, reporter: Reporter, *, force: bool
) -> JobState | Outcome:
    """The interrupted job if its images are the same, else a new one; or why there is none."""
    ingested = _ingest(config, reporter)
    job = _same_job(interrupted, ingested, config)
    if job is not None:
        return job
    nothing_new = None if force else _nothing_new(ingested, config)
    if nothing_new is not None:
        return Outcome(0, f"nothing new: {nothing_new}")
    doubted, ingested = _doubt(ingested, config, reporter)
    nothing_new = None if force else _nothing_new(ingested, config)
    if nothing_new is not None:
        aside = f"{len(doubted.rows)} new images are put aside, and the others are old"
        return Outcome(0, f"nothing new: {aside}")
    too_few = _too_few_to_judge(ingested.images.split("test"), config, reporter)
    if too_few is not None:
        return Outcome(REFUSED, f"not trained: {too_few}; production is untouched")
    return _new_job(ingested, config, doubted)


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
    job.step("train", lambda: _train(job, run, config, reporter))
    job.step("export", lambda: _export(run, reporter))
    bundle = open_bundle(run.bundle)
    gate = job.step("gate", lambda: _gate(job, run, bundle, config, reporter))
    version = store.version_of(bundle)
    job.step("register", lambda: _register(run.bundle, version, gate["refused"], signer))
    tag = f"{store.MODEL_NAME}:{version}"
    announce_registration(tag)
    if gate["refused"]:
        _tell_refusal(job, tag, gate)
        outcome = Outcome(REFUSED, f"{tag} is refused: {gate['refused']}; production is untouched")
        return _finish(job, "refused", outcome, reporter)
    if config.build is not None:
        job.step("build", lambda: _build(version, config, reporter, builder))
    if (rule := config.shadow) is not None and job.champion is not None:
        job.step("shadow", lambda: begin_shadow(job, version, rule, reporter))
        shadowed = shadow_outcome(job, version)
        if shadowed.waits:
            return Outcome(IN_SHADOW, f"{tag} is in production's shadow: {shadowed.reason}")
        if shadowed.reason:
            outcome = Outcome(REFUSED, f"{tag} is refused: {shadowed.reason}")
            return _finish(job, "refused", outcome, reporter)
    job.step("promote", lambda: _promote(job, version, gate, reporter))
    verified = job.step("verify", lambda: _verify(bundle, version, config, reporter))
    if verified["failed"]:
        back = job.step("rollback", lambda: _roll_back(job, version, verified, config, reporter))
        outcome = Outcome(ROLLED_BACK, f"{tag} failed: {verified['failed']}; {back['result']}")
        return _finish(job, "rolled back", outcome, reporter)
    replaced = f", it was {store.MODEL_NAME}:{job.champion}" if job.champion else ""
    return _finish(job, "promoted", Outcome(0, f"production is {tag}{replaced}"), reporter)


def _ingest(config: RedeployConfig, reporter: Reporter) -> Ingested:
    train = config.train_config(config.data[0], config.state, None)
    rule = SplitRule(config.val_fraction, config.test_fraction, train.seed)
    captured = labelled_images(config.capture, reporter) if config.capture else []
    excluded = read_contents(config.exclude) if config.exclude else set()
    aside = put_aside(config.state) - _trusted(config) if config.suspects == "put-aside" else set()
    return ingest(
        config.data, rule, train.preprocessing(), reporter,
        max_bad_fraction=train.max_bad_fraction, columns=config.columns(),
        allow_conflicting_labels=config.allow_conflicting_labels, more=captured,
        exclude=excluded | aside,
    )  # fmt: skip


def _trusted(config: RedeployConfig) -> set[str]:
    return read_contents(config.trusted) if config.trusted else set()


def _doubt(
    ingested: Ingested, config: RedeployConfig, reporter: Reporter
) -> tuple[Doubted, Ingested]:
    """Which new labels the other images contradict, and the images to go on with."""
    if config.suspects == "off":
        return Doubted(0, (), None), ingested
    champion = store.production_version()
    train = config.train_config(config.data[0], config.state, _weights(config, champion))
    doubted = look_for_suspects(
        ingested.images, train, _record_of(champion), _trusted(config), reporter
    )
    if not doubted.rows:
        return doubted, ingested
    reporter.warn(
        f"{len(doubted.rows)} of {doubted.new} new images have labels that the others contradict"
    )
    if doubted.why_not is not None:
        reporter.warn(f"none is put aside: only {doubted.why_not}")
    if config.suspects == "report" or doubted.why_not is not None:
        return doubted, ingested
    left = ingested.without({str(row[COLUMN]) for row in doubted.rows})
    table = add_to_put_aside(config.state, doubted)
    reporter.say(f"they are put aside: {table}; those that are right go to a table of 'trusted'")
    return doubted, left


def _same_job(job: JobState | None, ingested: Ingested, config: RedeployConfig) -> JobState | None:
    """The interrupted job, if it would come to the same; else it is given up."""
    if job is None:
        return None
    same = (
        job.fingerprint == ingested.images.fingerprint()
        and job.config_digest == config.digest()
        and job.champion == store.production_version()
    )
    if same:
        return job
    job.finish("given up", "images, configuration or production changed before it was done")
    return None


def _nothing_new(ingested: Ingested, config: RedeployConfig) -> str | None:
    """Why there is nothing to do, if there is nothing."""
    fingerprint = ingested.images.fingerprint()
    champion = store.production_version()
    if champion is not None:
        known = store.open_stored(store.resolve(champion)).manifest.provenance.data_fingerprint
        if known == fingerprint:
            return f"{store.MODEL_NAME}:{champion} was trained on these images"
    for job in finished_jobs(config.state):
        if job.outcome in ("refused", "rolled back") and (
            (job.fingerprint, job.config_digest, job.champion)
            == (fingerprint, config.digest(), champion)
        ):
            return f"job {job.id} tried these images: {job.message}"
    return None


def _too_few_to_judge(
    held_out: Sequence[Sample], config: RedeployConfig, reporter: Reporter
) -> str | None:
    """Why the gate would refuse any challenger, if it would: known without training one."""
    champion = _record_of(store.production_version())
    judging, needed = unknown_to(champion, held_out, reporter), config.gate.min_held_out or 1
    reporter.say(f"{len(judging)} of {len(held_out)} held-out images can judge")
    if len(judging) >= needed:
        return None
    known = len(held_out) - len(judging)
    without = f"the champion was trained on {known} of the {len(held_out)} held-out images, so "
    return (
        f"{without if known else ''}{len(judging)} can judge, {needed} are needed "
        "(gate.min_held_out); add images that it hasn't seen, or raise test_fraction"
    )


def _champion(version: str | None) -> Bundle | None:
    return store.open_stored(store.resolve(version)) if version else None


def _record_of(version: str | None) -> Bundle | None:
    """As `_champion`, for what is recorded beside the graphs, whose 0.6 GB aren't read."""
    return store.inspect_stored(store.resolve(version)) if version else None


def _runs_to_keep() -> list[Path]:
    """The run that production came from: `reproduce`, and `start_from: champion`, need it."""
    champion = _record_of(store.production_version_or_none())
    if champion is None:
        return []
    return [Path(str(champion.manifest.provenance.training_config["output"]))]


def _new_job(ingested: Ingested, config: RedeployConfig, doubted: Doubted) -> JobState:
    images = ingested.images
    aside = config.suspects == "put-aside" and doubted.why_not is None

    def write(path: Path) -> None:
        write_csv(images, path / "data.csv")
        doubted.write(path / "suspects.csv")

    return JobState.create(
        config.state,
        fingerprint=images.fingerprint(),
        config_digest=config.digest(),
        champion=store.production_version(),
        ingested={
            "counts": images.counts(),
            "skipped": len(images.skipped),
            "relabelled": ingested.relabelled,
            "left_out": ingested.left_out,
            "suspects": doubted.as_json(put_aside=aside),
        },
        write=write,
    )


def _train(job: JobState, run: Run, config: RedeployConfig, reporter: Reporter) -> dict[str, Any]:
    try:
        if run.report.exists():  # killed between its end and the record of it
            pass
        elif can_resume(run):
            resume(run.path, reporter)
        else:
            shutil.rmtree(run.path, ignore_errors=True)  # of a run that had saved nothing yet
            weights = _weights(config, job.champion)
            train(config.train_config(job.path / "data.csv", run.path, weights), reporter)
    except Terminated as terminated:
        raise JobTerminatedError(terminated.exit_code) from None
    metrics = run.read_json(run.metrics)
    return {"best_epoch": metrics["best_epoch"], "epochs": metrics["history"][-1]["epoch"]}


def _weights(config: RedeployConfig, champion: str | None) -> str | None:
    """What the challenger starts from; None: what its `train` section says."""
    if config.start_from == "pretrained" or (config.start_from == "champion" and not champion):
        return None
    if config.start_from != "champion":
        return config.start_from
    provenance = store.open_stored(store.resolve(str(champion))).manifest.provenance
    checkpoint = Run(Path(str(provenance.training_config["output"]))).best
    if not checkpoint.is_file() or weights_digest(checkpoint) != provenance.weights_sha256:
        raise RedeployError(
            f"start_from is 'champion', but {checkpoint} is missing or isn't the checkpoint of "
            f"{store.MODEL_NAME}:{champion}; set start_from to the path of its best.safetensors, "
            "or to 'pretrained'"
        )
    return str(checkpoint)


def _bundle_of(run: Run, reporter: Reporter) -> Bundle:
    if run.bundle.exists():
        return open_bundle(run.bundle)
    return export_run(run, reporter=reporter)[0]


def _export(run: Run, reporter: Reporter) -> dict[str, Any]:
    bundle = _bundle_of(run, reporter)
    parity = bundle.metrics()["onnx_parity"]["max_probability_difference"]
    reporter.say(f"exported; ONNX equals PyTorch to {parity:.1e}")
    return {"parity": parity}


def _gate(
    job: JobState, run: Run, bundle: Bundle, config: RedeployConfig, reporter: Reporter
) -> dict[str, Any]:
    champion = _champion(job.champion)
    held_out = held_out_samples(run, champion, reporter)
    comparison = compare(champion, bundle, held_out, reporter)
    lost = sorted(set(champion.spec.labels) - set(bundle.spec.labels)) if champion else []
    verdicts = judge(
        comparison,
        config.gate,
        parity_difference=bundle.metrics()["onnx_parity"]["max_probability_difference"],
        lost_classes=lost,
    )
    for verdict in verdicts:
        mark = "ok     " if verdict.passed else "REFUSED"
        reporter.say(f"  {mark} {verdict.rule}: {verdict.measured} (limit: {verdict.limit})")
    return {
        "comparison": comparison.as_json(),
        "verdicts": [verdict.as_json() for verdict in verdicts],
        "refused": reason(verdicts),
        "disagreements": disagreements(comparison, held_out),
    }


def held_out_samples(run: Run, champion: Bundle | None, reporter: Reporter) -> list[Sample]:
    """The images that judge: the run's test split, without what the champion has trained on.

    Raises:
        RedeployError: none is left.
    """
    data = run.read_json(run.data)
    samples = [
        Sample(run.path.parent / file["path"], file["label"], "test", file["sha256"])
        for file in data["files"]
        if file["split"] == "test"
    ]
    unseen = unknown_to(champion, samples, reporter)
    if not unseen:
        raise RedeployError(
            f"the champion was trained on all of the {len(samples)} held-out images; add images "
            "that it hasn't seen"
        )
    if len(unseen) < len(samples):
        reporter.say(
            f"{len(samples) - len(unseen)} of {len(samples)} held-out images are not used: the "
            "champion was trained on them"
        )
    return unseen


def unknown_to(
    champion: Bundle | None, samples: Sequence[Sample], reporter: Reporter
) -> list[Sample]:
    """The images that the champion, if there is one, was neither trained nor chosen by."""
    if champion is None:
        return list(samples)
    seen = champion.seen()
    if seen is None:
        reporter.warn(
            "the champion's bundle doesn't tell which images it was trained on; some of the "
            "held-out ones may be among them, which would be to its advantage"
        )
        return list(samples)
    return [sample for sample in samples if not seen.trained(sample.sha256)]


def _register(bundle: Path, version: str, refused: str, signer: Signer | None) -> dict[str, Any]:
    if not store.is_registered(version):
        if signer is not None and not refused:
            signer.sign(bundle)
        store.register(bundle, rejected=refused)
    return {"version": version}


def _build(
    version: str, config: RedeployConfig, reporter: Reporter, builder: Builder
) -> dict[str, Any]:
    """Before the promotion: what can't be built doesn't become production."""
    assert config.build is not None
    bento = builder.build(version, config.build)
    reporter.say(f"built {bento}")
    if config.image is None:
        return {"bento": bento}
    name = f"{config.image}:{version}-{config.build}"
    builder.containerize(bento, name, config.image_backend)
    reporter.say(f"made the image {name}")
    return {"bento": bento, "image": name}


def _promote(
    job: JobState, version: str, gate: dict[str, Any], reporter: Reporter
) -> dict[str, Any]:
    now = store.production_version()
    if now != version:
        if now != job.champion:
            job.finish("given up", f"production became {now} meanwhile")
            raise RedeployError(
                f"production became {store.MODEL_NAME}:{now} while the job compared with "
                f"{store.MODEL_NAME}:{job.champion}; run it again"
            )
        accuracy = gate["comparison"]["challenger"]["accuracy"]
        difference = gate["comparison"]["accuracy_difference"]
        change = "" if difference is None else f" ({100 * difference:+.1f} points)"
        store.promote(version, f"redeploy job {job.id}: accuracy {accuracy:.1%}{change}")
    reporter.say(f"promoted {store.MODEL_NAME}:{version}")
    announce_promotions()
    return {"version": version}


def _verify(
    bundle: Bundle, version: str, config: RedeployConfig, reporter: Reporter
) -> dict[str, Any]:
    if not config.services:
        reporter.say("no services are configured, so none was checked")
    for service in config.services:
        try:
            smoke_test(service, bundle, version, config.service_timeout_s)
        except SmokeTestError as error:
            return {"failed": str(error)}
        reporter.say(f"{service.http} serves {store.MODEL_NAME}:{version} as it should")
    return {"failed": ""}


def _roll_back(
    job: JobState,
    version: str,
    verified: dict[str, Any],
    config: RedeployConfig,
    reporter: Reporter,
) -> dict[str, Any]:
    if job.champion is None:
        return {"result": "there is no earlier model to go back to"}
    if store.production_version() == version:
        store.rollback(why=f"redeploy job {job.id}: {verified['failed']}")
        announce_promotions()
    champion = store.open_stored(store.resolve(job.champion))
    for service in config.services:
        try:
            smoke_test(service, champion, job.champion, config.service_timeout_s)
        except SmokeTestError as error:
            reporter.warn(f"after the rollback: {error}")
    return {"result": f"rolled back to {store.MODEL_NAME}:{job.champion}"}


def _tell_refusal(job: JobState, tag: str, gate: dict[str, Any]) -> None:
    emit(
        "model.refused",
        tag,
        {"model": tag, "job": job.id, "why": gate["refused"], "gate": gate["verdicts"]},
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
