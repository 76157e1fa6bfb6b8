"""A run's checkpoint -> a bundle: graph, proof, golden samples, card, manifest."""

from __future__ import annotations

import json
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
    SEEN_FILE,
    SPEC_FILE,
    Bundle,
    GoldenSamples,
    Seen,
    open_bundle,
)
from models.bundle.manifest import Provenance
from models.bundle.spec import ModelSpec
from models.bundle.writer import seal
from models.export.distance_graph import Familiar, write_distance_graph
from models.export.explainer_graph import HEAT_MAP_TOLERANCE, prove_heat_maps, write_explainer
from models.export.onnx_export import (
    Parity,
    ServingModule,
    export,
    prove_parity,
    reference_probabilities,
)
from models.files import staged_directory
from training.evaluate.ood import summary
from training.loop.checkpoint import load_checkpoint, weights_digest
from training.loop.run import Run, RunError, read_held_out

# Replayed at every start of the service: few enough to cost little, more than one class.
_GOLDEN_SAMPLES = 8

_HELD_OUT_NOTE = {
    "test": "that training has not seen.",
    "val": "that were not trained on; but the best epoch was chosen by them.",
}


# Adds files to a bundle that is being made.
AddVariants = Callable[[Path, ModelSpec, GoldenSamples], None]


def export_run(run: Run, add_variants: AddVariants | None = None) -> tuple[Bundle, Parity]:
    """Export the run's best checkpoint to `run.bundle`, or fail and leave nothing there.

    Args:
        add_variants: called before the bundle is sealed, see `training.variants`.

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
    data = run.read_json(run.data)
    images = read_held_out(run.held_out)
    model, spec = load_checkpoint(run.best)
    module = ServingModule(model, spec, metrics["calibration"]["temperature"])
    with staged_directory(run.bundle) as staging:
        export(module, spec, staging / MODEL_FILE)
        parity = prove_parity(module, spec, staging / MODEL_FILE, images)
        write_explainer(staging / MODEL_FILE, staging / EXPLAIN_FILE, spec)
        difference = prove_heat_maps(module, spec, staging / EXPLAIN_FILE, images)
        spec.write(staging / SPEC_FILE)
        _write_acceptance(run, metrics, staging)
        golden = _golden_samples(module, images)
        golden.write(staging / GOLDEN_FILE)
        if add_variants is not None:
            add_variants(staging, spec, golden)
        metrics["onnx_parity"] = asdict(parity)
        metrics["heat_map_parity"] = {"max_difference": difference, "tolerance": HEAT_MAP_TOLERANCE}
        (staging / METRICS_FILE).write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
        (staging / CARD_FILE).write_text(
            model_card(spec, data, metrics, provenance), encoding="utf-8"
        )
        _seen(data).write(staging / SEEN_FILE)
        digest = weights_digest(run.best)
        seal(staging, provenance.model_copy(update={"weights_sha256": digest}))
    return open_bundle(run.bundle), parity


def _write_acceptance(run: Run, metrics: dict[str, Any], bundle: Path) -> None:
    """Nothing of a run from before there was any."""
    if "acceptance" not in metrics or not run.familiar.exists():
        return
    fields = {name: metrics["acceptance"][name] for name in Acceptance.model_fields}
    Acceptance(**fields).write(bundle / ACCEPTANCE_FILE)
    write_distance_graph(Familiar.read(run.familiar), bundle / DISTANCE_FILE)


def model_card(
    spec: ModelSpec, data: dict[str, Any], metrics: dict[str, Any], provenance: Provenance
) -> str:
    """The bundle's README.md: what the model is for, how good it is, how to make it again."""
    held_out, calibration = metrics["held_out"], metrics["calibration"]
    error_before = calibration["expected_calibration_error_before"]
    config = provenance.training_config
    preprocessing = spec.preprocessing
    size = preprocessing.image_size
    counts = data["counts"]
    rows = "\n".join(
        f"| {label} | {counts['train'][label]} | {counts['val'][label]} | {counts['test'][label]} "
        f"| {scores['precision']:.3f} | {scores['recall']:.3f} | {scores['f1']:.3f} |"
        for label, scores in held_out["per_class"].items()
    )
    return f"""# VGG-19, {len(spec.labels)} classes

## Intended use

Classifies RGB images as one of: {", ".join(spec.labels)}.

- Input `{spec.input_name}`: uint8[N, {size}, {size}, 3], RGB, the shorter side resized to
  {preprocessing.resize_size} px, then the centre cropped. Normalisation is in the graph.
- Output `{spec.output_name}`: float32[N, {len(spec.labels)}], rows sum to 1.

## Limits

- An image of anything else gets one of these labels as well: the probabilities say which label
  fits best, not whether one fits. {_acceptance_words(metrics.get("acceptance"))}
- The numbers below hold for images like those it was trained and judged on: the same sources,
  cameras and ways of labelling. On others, measure again: `vgg19 evaluate RUN --data FOLDER`.
- What lies outside of the centre crop is not seen.

## Data and metrics

Measured on {held_out["images"]} images (split `{held_out["split"]}`)
{_HELD_OUT_NOTE[held_out["split"]]} Fingerprint of the data:
`{provenance.data_fingerprint}`.

| | |
|---|---|
| accuracy | {held_out["accuracy"]:.1%} |
| top-5 accuracy | {held_out["top5_accuracy"]:.1%} |
| macro F1 | {held_out["macro_f1"]:.3f} |
| calibration error | {held_out["expected_calibration_error"]:.3f} |
| (before temperature {calibration["temperature"]:.2f}) | {error_before:.3f} |

| class | train | val | test | precision | recall | F1 |
|---|---|---|---|---|---|---|
{rows}

ONNX Runtime equals PyTorch to {metrics["onnx_parity"]["max_probability_difference"]:.1e} in every
probability (limit {metrics["onnx_parity"]["tolerance"]:.0e}); heat maps equal its own to
{metrics["heat_map_parity"]["max_difference"]:.1e} (limit
{metrics["heat_map_parity"]["tolerance"]:.0e}).

## How to reproduce

Strategy `{config["strategy"]}`, weights `{config["weights"]}`, {config["epochs"]} epochs (epoch
{metrics["best_epoch"]} was best), seed {provenance.seed}, {provenance.created_at}, code
`{provenance.git_commit or "unknown"}`. `manifest.json` holds the whole configuration, the versions
and the hardware; with the same images in place, `vgg19 reproduce` on this model's tag trains it
again and compares.
"""


def _acceptance_words(acceptance: dict[str, Any] | None) -> str:
    if acceptance is None:
        return "Nothing here says which answers to trust."
    return f"""What says that is `accepted`:
  {summary(acceptance)}. {_unlike_words(acceptance["unlike"])}"""


def _unlike_words(unlike: dict[str, Any] | None) -> str:
    if unlike is None:
        return "How well images of something else are told apart was not measured (`--unlike`)."
    return (
        f"Of the other images, {unlike['beyond_limit']:.1%} were further from the training images "
        "than 99% of the validation images are."
    )


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
