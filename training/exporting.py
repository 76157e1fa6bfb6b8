"""A run's checkpoint -> a bundle: graph, proof, golden samples, card, manifest."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.bundle import (
    CARD_FILE,
    GOLDEN_FILE,
    METRICS_FILE,
    MODEL_FILE,
    SPEC_FILE,
    Bundle,
    GoldenSamples,
    Provenance,
    open_bundle,
    seal,
    staged_directory,
)
from models.onnx_export import (
    Parity,
    ServingModule,
    export,
    prove_parity,
    reference_probabilities,
)
from models.spec import ModelSpec
from training.checkpoint import load_checkpoint, weights_digest
from training.run import Run, RunError, read_held_out

# Replayed at every start of the service: few enough to cost little, more than one class.
_GOLDEN_SAMPLES = 8

_HELD_OUT_NOTE = {
    "test": "that training has not seen.",
    "val": "that were not trained on; but the best epoch was chosen by them.",
}


def export_run(run: Run) -> tuple[Bundle, Parity]:
    """Export the run's best checkpoint to `run.bundle`, or fail and leave nothing there.

    Raises:
        RunError: the run isn't finished, or has a bundle already.
        CheckpointError: the checkpoint is missing or damaged.
        ExportError: ONNX Runtime doesn't answer as PyTorch does.
    """
    metrics = run.read_json(run.metrics)
    if "held_out" not in metrics:
        raise RunError(f"{run.path} was interrupted before its end; train it again to export it")
    if run.bundle.exists():
        raise RunError(
            f"{run.bundle} exists; register it with 'vgg19 register {run.path}' or remove it"
        )
    provenance = Provenance.model_validate(run.read_json(run.provenance))
    images = read_held_out(run.held_out)
    model, spec = load_checkpoint(run.best)
    module = ServingModule(model, spec, metrics["calibration"]["temperature"])
    with staged_directory(run.bundle) as staging:
        export(module, spec, staging / MODEL_FILE)
        parity = prove_parity(module, spec, staging / MODEL_FILE, images)
        spec.write(staging / SPEC_FILE)
        _golden_samples(module, images).write(staging / GOLDEN_FILE)
        metrics["onnx_parity"] = asdict(parity)
        (staging / METRICS_FILE).write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
        (staging / CARD_FILE).write_text(model_card(spec, metrics, provenance), encoding="utf-8")
        digest = weights_digest(run.best)
        seal(staging, provenance.model_copy(update={"weights_sha256": digest}))
    return open_bundle(run.bundle), parity


def model_card(spec: ModelSpec, metrics: dict[str, Any], provenance: Provenance) -> str:
    """The bundle's README.md: what the model is for, how good it is, how to make it again."""
    held_out = metrics["held_out"]
    config = provenance.training_config
    size = spec.preprocessing.image_size
    rows = "\n".join(
        f"| {label} | {scores['precision']:.3f} | {scores['recall']:.3f} | {scores['f1']:.3f} "
        f"| {scores['support']} |"
        for label, scores in held_out["per_class"].items()
    )
    return f"""# VGG-19, {len(spec.labels)} classes

Classifies RGB images as one of: {", ".join(spec.labels)}. An image of anything else gets one of
these labels as well: the probabilities say which label fits best, not whether one fits.

- Input `{spec.input_name}`: uint8[N, {size}, {size}, 3], RGB, the shorter side resized to
  {spec.preprocessing.resize_size} px, then the centre cropped. Normalisation is in the graph.
- Output `{spec.output_name}`: float32[N, {len(spec.labels)}], rows sum to 1.

## Held-out images

Accuracy {held_out["accuracy"]:.1%} on {held_out["images"]} images (split `{held_out["split"]}`)
{_HELD_OUT_NOTE[held_out["split"]]}

| class | precision | recall | F1 | images |
|---|---|---|---|---|
{rows}

ONNX Runtime equals PyTorch to {metrics["onnx_parity"]["max_probability_difference"]:.1e} in every
probability (limit {metrics["onnx_parity"]["tolerance"]:.0e}).

## Training

Strategy `{config["strategy"]}`, weights `{config["weights"]}`, {config["epochs"]} epochs (epoch
{metrics["best_epoch"]} was best), seed {provenance.seed}, {provenance.created_at}.
Data fingerprint `{provenance.data_fingerprint}`, code `{provenance.git_commit or "unknown"}`.
To train it again, take the configuration and the package versions from `manifest.json`.
"""


def _golden_samples(module: ServingModule, images: NDArray[np.uint8]) -> GoldenSamples:
    spread = np.linspace(0, len(images) - 1, min(_GOLDEN_SAMPLES, len(images))).astype(int)
    chosen = images[spread]
    return GoldenSamples(images=chosen, probabilities=reference_probabilities(module, chosen))
