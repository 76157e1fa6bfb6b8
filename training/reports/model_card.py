"""The README.md of a bundle."""

from __future__ import annotations

from typing import Any

from models.bundle.manifest import Provenance
from models.bundle.metrics import class_scores, weaknesses
from models.bundle.spec import ModelSpec
from models.imaging.preprocessing import Preprocessing, Resize
from models.network.architectures import architecture
from training.evaluate.ood import summary
from training.reports.auto import COLUMNS, stage_rows
from training.reports.certainty import COLUMNS as CERTAINTY_COLUMNS
from training.reports.certainty import certainty_rows
from training.reports.markdown import code, text

_HELD_OUT_NOTE = {
    "test": "that were not used in training.",
    "val": "that were not trained on, but that the best epoch was chosen by.",
}
_UNSEEN: dict[Resize, str] = {
    "crop": "Nothing outside the centre crop is seen.",
    "squash": "Proportions are lost: every image is made square.",
    "pad": "The more elongated an image is, the more it is scaled down and loses detail.",
}


def model_card(
    spec: ModelSpec, data: dict[str, Any], metrics: dict[str, Any], provenance: Provenance
) -> str:
    """The bundle's README.md: what the model is for, how good it is, how to make it again."""
    held_out, calibration = metrics["held_out"], metrics["calibration"]
    error_before = calibration["expected_calibration_error_before"]
    config = provenance.training_config
    size = spec.preprocessing.image_size
    counts = data["counts"]
    rows = "\n".join(
        f"| {text(row.label)} | {counts['train'][row.label]} | {counts['val'][row.label]} "
        f"| {counts['test'][row.label]} "
        f"| {row.precision:.3f} | {row.recall:.3f} | {row.f1:.3f} |"
        for row in class_scores(held_out)
    )
    certainty = "\n".join(f"| {' | '.join(row)} |" for row in certainty_rows(metrics))
    weak = "".join(f"- **{line[0].upper()}{line[1:]}.**\n" for line in weaknesses(held_out))
    return f"""# {architecture(spec.architecture).title}, {len(spec.labels)} classes

## Intended use

Classifies RGB images as one of: {", ".join(map(text, spec.labels))}.

- Input `{spec.input_name}`: uint8[N, {size}, {size}, 3], RGB, {_shape(spec.preprocessing)}.
  Normalisation is in the graph.
- Output `{spec.output_name}`: float32[N, {len(spec.labels)}], rows sum to 1.

## Limits

{weak}- An image of anything else gets one of these labels, too: the probabilities say which label
  fits best, not whether one fits. {_acceptance_words(metrics.get("acceptance"))}
- The numbers below hold for images like those it was trained and evaluated on: the same sources,
  cameras and labelling rules. For others, measure again: `vgg19 evaluate RUN --data FOLDER`.
- {_UNSEEN[spec.preprocessing.resize]}

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

| {" | ".join(CERTAINTY_COLUMNS)} |
|---|---|---|---|
{certainty}

| class | train | val | test | precision | recall | F1 |
|---|---|---|---|---|---|---|
{rows}

ONNX Runtime differs from PyTorch by at most
{metrics["onnx_parity"]["max_probability_difference"]:.1e} in a probability (limit
{metrics["onnx_parity"]["tolerance"]:.0e}); its heat maps by at most
{metrics["heat_map_parity"]["max_difference"]:.1e} (limit
{metrics["heat_map_parity"]["tolerance"]:.0e}).

{_tried(metrics.get("auto"))}## How to reproduce

Strategy `{config["strategy"]}`, weights {code(config["weights"])}, {config["epochs"]} epochs (epoch
{metrics["best_epoch"]} was best), seed {provenance.seed}, {provenance.created_at}, code
`{provenance.git_commit or "unknown"}`. `manifest.json` holds the whole configuration, the versions
and the hardware; with the same images in place, `vgg19 reproduce` on this model's tag trains it
again and compares the weights.
"""


def _tried(auto: dict[str, Any] | None) -> str:
    """What strategy auto did before; empty for others."""
    if auto is None:
        return ""
    columns = " | ".join(COLUMNS)
    rows = "\n".join(f"| {' | '.join(map(text, row))} |" for row in stage_rows(auto))
    return f"""## How it was chosen

Strategy `auto`. A linear probe of the network's features said: {text(auto["advice"])}. Then these
were trained, from the same weights, until it no longer paid: {text(auto["why"])}. Errors are
squared ones of the probabilities of the same validation images.

| {columns} |
|{"---|" * len(COLUMNS)}
{rows}

"""


def _shape(preprocessing: Preprocessing) -> str:
    """How an image becomes the square."""
    match preprocessing.resize:
        case "crop":
            short = preprocessing.resize_size
            return f"the shorter side resized to\n  {short} px, then the centre cropped"
        case "squash":
            return "all of the image\n  resized to the square, whatever its shape"
        case "pad":
            colour = preprocessing.pad_colour
            return f"the longer side resized to\n  it, the rest filled with {colour} on both sides"


def _acceptance_words(acceptance: dict[str, Any] | None) -> str:
    if acceptance is None:
        return "The model has no thresholds that say which answers to trust."
    return f"""Which answers are `accepted`:
  {summary(acceptance)}. {_ood_words(acceptance["unlike"])}"""


def _ood_words(ood: dict[str, Any] | None) -> str:
    if ood is None:
        return "How well out-of-distribution images are detected was not measured (`--ood-data`)."
    return (
        f"Of the out-of-distribution images, {ood['beyond_limit']:.1%} were further from the "
        "training images than 99% of the validation images are."
    )
