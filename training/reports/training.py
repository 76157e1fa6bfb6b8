"""The report of a run: `report.html`, one self-contained file, and its pictures as PNG."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from torch import Tensor, nn

from models.bundle.metrics import class_scores, confusion_matrix, weaknesses
from models.files import staged_file
from training.evaluate.ood import summary
from training.loop.context import TrainContext
from training.loop.layer_table import LayerRow, rate, trains
from training.loop.run import Run
from training.reports.html_page import PAGE_STYLE, table, text, tile
from training.reports.mistakes import Mistake, mistakes_html, worst_mistakes
from training.reports.plots import (
    PLOT_STYLE,
    confusion,
    curves,
    learning_rate,
    reliability_diagram,
    save_plot,
)


def write_report(
    model: nn.Module,
    run: Run,
    context: TrainContext,
    table: Sequence[LayerRow],
    metrics: dict[str, Any],
    probabilities: Tensor,
    targets: Tensor,
) -> None:
    """Write `report.html` and `report/*.png`.

    Args:
        model: the best one, for the heat maps of its mistakes.
        metrics: what metrics.json holds.
        probabilities: float32[N,C] of the held-out images, calibrated, in their order.
        targets: int64[N].
    """
    run.report_pictures.mkdir(exist_ok=True)
    plots = {}
    with mpl.rc_context(PLOT_STYLE):
        for name, figure in {
            "curves": curves(metrics["history"], metrics["best_epoch"]),
            "learning_rate": learning_rate(metrics["history"]),
            "confusion": confusion(confusion_matrix(metrics["held_out"]), context.data.labels),
            "reliability": reliability_diagram(metrics["held_out"]["reliability"]),
        }.items():
            path = run.report_pictures / f"{name}.png"
            save_plot(figure, path)
            plots[name] = path.read_bytes()
    mistakes = worst_mistakes(model, context, probabilities, targets)
    page = _page(context, table, metrics, plots, mistakes)
    with staged_file(run.report) as staging:  # a run with a report is finished
        staging.write_text(page, encoding="utf-8")


def _page(
    context: TrainContext,
    table: Sequence[LayerRow],
    metrics: dict[str, Any],
    plots: dict[str, bytes],
    mistakes: Sequence[Mistake],
) -> str:
    held_out, calibration = metrics["held_out"], metrics["calibration"]
    config = context.config
    tiles = {
        "accuracy": f"{held_out['accuracy']:.1%}",
        "top-5 accuracy": f"{held_out['top5_accuracy']:.1%}",
        "macro F1": f"{held_out['macro_f1']:.3f}",
        "calibration error": f"{held_out['expected_calibration_error']:.3f}",
        "temperature": f"{calibration['temperature']:.2f}",
        "epoch saved": f"{metrics['best_epoch']} of {len(metrics['history'])}",
    }
    title = text(f"{context.architecture.title} on {context.data.root.name}")
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>{PAGE_STYLE}</style></head>
<body>
<h1>{title}</h1>
<p class="sub">strategy {config.strategy}, weights {text(config.weights)},
{config.image_size} px; measured on {held_out["images"]} held-out images
(split {held_out["split"]})</p>
{_warnings(held_out)}
<div class="tiles">{"".join(tile(name, value) for name, value in tiles.items())}</div>
<h2>Loss and accuracy</h2>{_plot(plots["curves"], "loss and accuracy over the epochs")}
<h2>Confusion</h2>{_plot(plots["confusion"], "confusion matrix")}
<h2>Each class</h2>{_class_table(held_out)}
<h2>Calibration and learning rate</h2>
<div class="two">{_plot(plots["reliability"], "accuracy against confidence")}
{_plot(plots["learning_rate"], "learning rate over the epochs")}</div>
<p class="sub">Calibration error before temperature scaling:
{calibration["expected_calibration_error_before"]:.3f}. The size of a dot is the number of its
images.</p>
<h2>Which answers are accepted</h2>{acceptance_html(metrics["acceptance"])}
<h2>Worst mistakes</h2>{mistakes_html(mistakes)}
<h2>Data</h2>{_data_table(context)}
<h2>Layers</h2>{_layers(table)}
</body></html>
"""


def _plot(content: bytes, alt: str) -> str:
    encoded = base64.b64encode(content).decode()
    return f'<img class="plot" alt="{alt}" src="data:image/png;base64,{encoded}">'


def acceptance_html(acceptance: dict[str, Any]) -> str:
    """The section on confidence and distance."""
    named = {"validation": acceptance["val"], "held out": acceptance["held_out"]}
    rows = [
        (name, str(row["images"]), f"{row['accepted']:.1%}", _share(row["precision"]),
         f"{row['beyond_limit']:.1%}")
        for name, row in named.items()
    ]  # fmt: skip
    if (ood := acceptance["unlike"]) is not None:
        share = f"{ood['accepted']:.1%}"
        rows.append(("OOD data", str(ood["images"]), share, "", f"{ood['beyond_limit']:.1%}"))
        note = "AUROC: how often one of these is further away than a held-out one."
    else:
        note = "How well it detects out-of-distribution images: train with --ood-data FOLDER."
    head = ("images of", "images", "accepted", "of them right", "too far from the training images")
    line = text(summary(acceptance))
    return f"<p class='sub'>{line[0].upper()}{line[1:]}. {note}</p>{table(head, rows)}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _warnings(held_out: dict[str, Any]) -> str:
    lines = (f"{line[0].upper()}{line[1:]}." for line in weaknesses(held_out))
    return "".join(f'<p class="warning">{text(line)}</p>' for line in lines)


def _class_table(held_out: dict[str, Any]) -> str:
    rows = [
        (
            row.label,
            f"{row.precision:.3f}",
            f"{row.recall:.3f}",
            f"{row.f1:.3f}",
            str(row.support),
        )
        for row in class_scores(held_out)
    ]
    return table(("class", "precision", "recall", "F1", "images"), rows)


def _data_table(context: TrainContext) -> str:
    counts = context.data.counts()
    rows = [
        (label, *(str(counts[split][label]) for split in ("train", "val", "test")))
        for label in context.data.labels
    ]
    total = ("all", *(str(len(context.data.split(split))) for split in ("train", "val", "test")))
    note = f"<p class='sub'>{len(context.data.skipped)} files were not images and were skipped.</p>"
    return table(("class", "train", "val", "test"), [*rows, total]) + note


def _layers(layers: Sequence[LayerRow]) -> str:
    rows = [(row.name, f"{row.parameters:,}", trains(row), rate(row)) for row in layers]
    return table(("layer", "parameters", "trains", "learning rate"), rows)
