"""A run's checkpoint -> a bundle: graph, proof, golden samples, card, manifest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.bundle.acceptance import Acceptance
from models.bundle.bundle import (
    ACCEPTANCE_FILE,
    CARD_FILE,
    DISTANCE_FILE,
    EXPLAIN_FILE,
    GOLDEN_FILE,
    METRICS_FILE,
    MODEL_FILE,
    REFERENCE_FILE,
    SEEN_FILE,
    SPEC_FILE,
    Bundle,
    open_bundle,
)
from models.bundle.golden import GoldenSamples
from models.bundle.manifest import Provenance
from models.bundle.seen import Seen
from models.bundle.spec import ModelSpec
from models.bundle.writer import write_manifest
from models.export.distance_graph import FeatureStatistics, write_distance_graph
from models.export.explainer_graph import HEAT_MAP_TOLERANCE, prove_heat_maps, write_explainer
from models.export.onnx_export import (
    Parity,
    ServingModule,
    export,
    prove_parity,
    reference_probabilities,
)
from models.files import json_text, staged_directory
from models.monitoring.reference import Reference
from training.loop.checkpoint import load_checkpoint, weights_digest
from training.loop.run import Run, RunError, read_held_out
from training.reporter import Reporter, SilentReporter, steps
from training.reports.model_card import model_card

# Replayed at every start of the service: few enough to cost little, more than one class.
_GOLDEN_SAMPLES = 8


# Adds files to a bundle that is being made.
AddVariants = Callable[[Path, ModelSpec, GoldenSamples], None]


def export_run(
    run: Run, add_variants: AddVariants | None = None, reporter: Reporter | None = None
) -> tuple[Bundle, Parity]:
    """Export the run's best checkpoint to `run.bundle`, or fail and leave nothing there.

    Args:
        add_variants: called before the manifest is written, see `training.export.variants`.
        reporter: told which step it is at.

    Raises:
        RunError: the run isn't finished, or has a bundle already.
        CheckpointError: the checkpoint is missing or damaged.
        ExportError: ONNX Runtime doesn't answer as PyTorch does.
    """
    metrics = run.read_json(run.metrics)
    run.check_finished(metrics)
    if run.bundle.exists():
        raise RunError(
            f"{run.bundle} exists; register it with 'vgg19 register {run.path}' or remove it"
        )
    provenance = Provenance.model_validate(run.read_json(run.provenance))
    data = run.read_json(run.data)
    images = read_held_out(run.held_out)
    model, spec = load_checkpoint(run.best)
    module = ServingModule(model, spec, metrics["calibration"]["temperature"])
    with staged_directory(run.bundle) as staging:
        with steps(reporter or SilentReporter(), "exporting", 4) as begin:
            begin("writing the graph")
            export(module, spec, staging / MODEL_FILE)
            begin("comparing it with PyTorch")
            parity = prove_parity(module, spec, staging / MODEL_FILE, images)
            begin("writing the graph of heat maps")
            write_explainer(staging / MODEL_FILE, staging / EXPLAIN_FILE, spec)
            begin("comparing its heat maps")
            difference = prove_heat_maps(module, spec, staging / EXPLAIN_FILE, images)
        spec.write(staging / SPEC_FILE)
        _write_acceptance(run, metrics, staging)
        if run.reference.exists():  # not of a run from before drift was measured
            Reference.read(run.reference).write(staging / REFERENCE_FILE)
        golden = _golden_samples(module, images)
        golden.write(staging / GOLDEN_FILE)
        if add_variants is not None:
            add_variants(staging, spec, golden)
        metrics["onnx_parity"] = asdict(parity)
        metrics["heat_map_parity"] = {"max_difference": difference, "tolerance": HEAT_MAP_TOLERANCE}
        (staging / METRICS_FILE).write_text(json_text(metrics), encoding="utf-8")
        (staging / CARD_FILE).write_text(
            model_card(spec, data, metrics, provenance), encoding="utf-8"
        )
        _seen(data).write(staging / SEEN_FILE)
        digest = weights_digest(run.best)
        write_manifest(staging, provenance.model_copy(update={"weights_sha256": digest}))
    return open_bundle(run.bundle), parity


def _write_acceptance(run: Run, metrics: dict[str, Any], bundle: Path) -> None:
    """Nothing of a run from before there was any."""
    if "acceptance" not in metrics or not run.feature_statistics.exists():
        return
    fields = {name: metrics["acceptance"][name] for name in Acceptance.model_fields}
    Acceptance(**fields).write(bundle / ACCEPTANCE_FILE)
    write_distance_graph(FeatureStatistics.read(run.feature_statistics), bundle / DISTANCE_FILE)


def _seen(data: dict[str, Any]) -> Seen:
    """From what data.json holds."""
    digests: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for file in data["files"]:
        digests[file["split"]].append(file["sha256"])
    return Seen(digests["train"] + digests["val"], digests["test"])


def _golden_samples(module: ServingModule, images: NDArray[np.uint8]) -> GoldenSamples:
    spread = np.linspace(0, len(images) - 1, min(_GOLDEN_SAMPLES, len(images))).astype(int)
    chosen = images[spread]
    return GoldenSamples(images=chosen, probabilities=reference_probabilities(module, chosen))
