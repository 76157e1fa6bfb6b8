"""What a job begins with: its images, those whose labels are doubted, and whether to begin."""

from __future__ import annotations

from pathlib import Path

from models.registry import store
from training.data.splits import SplitRule
from training.redeploy.captured import labelled_images
from training.redeploy.champion import champion_record, starting_weights
from training.redeploy.config import RedeployConfig
from training.redeploy.contents import COLUMN, read_contents
from training.redeploy.ingest import Ingested, ingest, write_csv
from training.redeploy.job_state import JobState, finished_jobs
from training.redeploy.judging import too_few_to_judge
from training.redeploy.outcome import REFUSED, Outcome
from training.redeploy.suspects import Doubted, add_to_put_aside, look_for_suspects, put_aside
from training.reporter import Reporter


def begin_job(
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
    too_few = too_few_to_judge(ingested.images.split("test"), config, reporter)
    if too_few is not None:
        return Outcome(REFUSED, f"not trained: {too_few}; production is untouched")
    return _new_job(ingested, config, doubted)


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
    train = config.train_config(config.data[0], config.state, starting_weights(config, champion))
    doubted = look_for_suspects(
        ingested.images, train, champion_record(champion), _trusted(config), reporter
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
