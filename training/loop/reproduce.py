"""`vgg19 reproduce`: train again from what a run or a registered model recorded, and compare."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from models.bundle.manifest import Provenance, read_manifest
from models.registry import store
from training.data.decoding import decoding
from training.loop.checkpoint import weights_digest
from training.loop.config import TrainConfig
from training.loop.config_file import recorded_config
from training.loop.context import load_data
from training.loop.preflight import check_config
from training.loop.recipe import fine_tune
from training.loop.run import (
    BF16_CONVOLUTIONS,
    PROCESSOR_MODEL,
    Run,
    RunError,
    check_free,
    hardware,
    initial_weights_sha256,
    package_versions,
)
from training.reporter import Reporter


@dataclass(frozen=True)
class Reproduction:
    """Whether the weights are bit-identical, and which inputs differ from the recorded ones."""

    identical: bool
    differences: list[str]


def default_output(source: str) -> Path:
    """Where the run that is trained again goes: beside the run, or named after the tag."""
    path = Path(source)
    if path.is_dir():
        return path.resolve().with_name(f"{path.resolve().name}-reproduced")
    return Path(f"{source.replace(':', '-')}-reproduced")


def reproduce(source: str, output: Path, reporter: Reporter) -> Reproduction:
    """Train the recorded configuration again, as a run of its own.

    Args:
        source: a run directory, or a tag of the store.
        output: the new run's directory, which stays.

    Raises:
        RunError, StoreError, BundleError: no such run or model, or something is at `output`.
        DataError: the images are no longer there.
    """
    provenance, expected = _recorded(source)
    check_free(output)
    config = recorded_config(provenance.training_config)
    check_config(config)
    differences = input_differences(provenance, load_data(config, reporter).fingerprint())
    for difference in differences:
        reporter.warn(difference)
    again = config.model_copy(update={"output": output, "tracker": "none"})
    run = fine_tune(TrainConfig.model_validate(again.model_dump()), reporter)
    now = Provenance.model_validate(run.read_json(run.provenance))
    for difference in _precision_differences(provenance, now):
        reporter.warn(difference)
        differences.append(difference)
    return Reproduction(weights_digest(run.best) == expected, differences)


def input_differences(provenance: Provenance, fingerprint: str) -> list[str]:
    """What of data, initial weights, packages, decoding and hardware is not as it was recorded."""
    differences = _weights_differences(provenance)
    if fingerprint != provenance.data_fingerprint:
        differences.append(
            f"data: the fingerprint is {fingerprint[:12]}, was {provenance.data_fingerprint[:12]}"
        )
    now = package_versions()
    differences.extend(
        f"package {name}: the version is {now.get(name, 'none')}, was {version}"
        for name, version in provenance.packages.items()
        if now.get(name) != version
    )
    pixels = decoding()
    differences.extend(
        f"decoding: {name} is {pixels.get(name, 'none')}, was {value}"
        for name, value in provenance.decoding.items()
        if pixels.get(name) != value
    )
    differences.extend(
        f"hardware: {name} is {value}, was {provenance.hardware.get(name, 'not recorded')}"
        for name, value in hardware().items()
        if provenance.hardware.get(name) != value
        and (name != PROCESSOR_MODEL or name in provenance.hardware)
    )
    return differences


def _weights_differences(provenance: Provenance) -> list[str]:
    """Nothing is said of runs from before the weights' hash was recorded."""
    recorded = provenance.initial_weights_sha256
    config = provenance.training_config
    weights = str(config.get("weights", "none"))
    now = initial_weights_sha256(str(config.get("network", "vgg19")), weights)
    if recorded is None or now == recorded:
        return []
    return [
        f"weights: the SHA-256 of {weights} is {now[:12] if now else 'gone'}, was {recorded[:12]}"
    ]


def _precision_differences(before: Provenance, now: Provenance) -> list[str]:
    """Runs from before convolutions were trained in bf16 recorded nothing of it, and used the type
    of the other layers."""
    was, is_ = (each.hardware.get(BF16_CONVOLUTIONS, "as the rest") for each in (before, now))
    return [] if was == is_ else [f"hardware: {BF16_CONVOLUTIONS} is {is_}, was {was}"]


def _recorded(source: str) -> tuple[Provenance, str]:
    """What was recorded, and the digest of the weights that came out."""
    run = Run(Path(source))
    if run.provenance.is_file():
        provenance = Provenance.model_validate(run.read_json(run.provenance))
        return provenance, weights_digest(run.best)
    if Path(source).is_dir():
        raise RunError(f"{source} is not a run: it has no {run.provenance.name}")
    version = store.resolve(source)
    manifest = read_manifest(store.stored_path(version))
    if manifest.provenance.weights_sha256 is None:
        raise RunError(f"{source} was exported without the digest of its weights")
    return manifest.provenance, manifest.provenance.weights_sha256
