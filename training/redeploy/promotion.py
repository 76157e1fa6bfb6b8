"""From the gate to production: register, build, promote, verify, and roll back."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Protocol

from models.bundle.bundle import Bundle
from models.bundle.signature import Signer
from models.events.announcing import announce_promotions
from models.registry import store
from training.redeploy.config import RedeployConfig
from training.redeploy.job_state import JobState
from training.redeploy.outcome import RedeployError
from training.redeploy.smoke_test import SmokeTestError, smoke_test
from training.reporter import Reporter


class Builder(Protocol):
    """Makes a Bento of a registered model, and an image of a Bento."""

    def build(self, reference: str, flavour: Literal["cpu", "gpu"]) -> str: ...
    def containerize(self, bento: str, image: str, backend: str) -> None: ...


def register(bundle: Path, version: str, refused: str, signer: Signer | None) -> dict[str, Any]:
    """Put the bundle into the store, once; signed where there is a key and the gate accepted it.

    Args:
        refused: why the gate refused it, which the store records; "": it didn't.
    """
    if not store.is_registered(version):
        if signer is not None and not refused:
            signer.sign(bundle)
        store.register(bundle, rejected=refused)
    return {"version": version}


def build(
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


def promote(
    job: JobState, version: str, gate: dict[str, Any], reporter: Reporter
) -> dict[str, Any]:
    """Put the version into production, once.

    Raises:
        RedeployError: production is no longer the champion that the gate compared with.
    """
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


def verify(
    bundle: Bundle, version: str, config: RedeployConfig, reporter: Reporter
) -> dict[str, Any]:
    """Ask each service whether it answers with the version as it should."""
    if not config.services:
        reporter.say("no services are configured, so none was checked")
    for service in config.services:
        try:
            smoke_test(service, bundle, version, config.service_timeout_s)
        except SmokeTestError as error:
            return {"failed": str(error)}
        reporter.say(f"{service.http} serves {store.MODEL_NAME}:{version} as it should")
    return {"failed": ""}


def roll_back(
    job: JobState,
    version: str,
    verified: dict[str, Any],
    config: RedeployConfig,
    reporter: Reporter,
) -> dict[str, Any]:
    """Put the champion back, and look whether the services answer with it."""
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
