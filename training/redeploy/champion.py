"""The champion of a job: the model in production, its records, and the weights it can give."""

from __future__ import annotations

from pathlib import Path

from models.bundle.bundle import Bundle
from models.registry import store
from training.loop.checkpoint import weights_digest
from training.loop.run import Run
from training.redeploy.config import RedeployConfig
from training.redeploy.outcome import RedeployError


def open_champion(version: str | None) -> Bundle | None:
    """The champion with its graphs; None: nothing was in production when the job began."""
    return store.open_stored(store.resolve(version)) if version else None


def champion_record(version: str | None) -> Bundle | None:
    """As `open_champion`, for what is recorded beside the graphs, whose 0.6 GB aren't read."""
    return store.inspect_stored(store.resolve(version)) if version else None


def runs_to_keep() -> list[Path]:
    """The run that production came from: `reproduce`, and `start_from: champion`, need it."""
    champion = champion_record(store.production_version_or_none())
    if champion is None:
        return []
    return [Path(str(champion.manifest.provenance.training_config["output"]))]


def starting_weights(config: RedeployConfig, champion: str | None) -> str | None:
    """What the challenger starts from; None: what its `train` section says.

    Raises:
        RedeployError: the champion's checkpoint is needed and isn't there any more.
    """
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
