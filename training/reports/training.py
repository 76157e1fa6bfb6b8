"""The report of a run: `report.html`, one self-contained file, and its pictures as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from torch import Tensor, nn

from models.bundle.metrics import class_scores, confusion_matrix, weaknesses
from models.files import staged_file
from training.data.batch import BatchSource
from training.data.listing import SPLITS
from training.evaluate.ood import summary
from training.loop.context import TrainContext
from training.loop.layer_table import LayerRow, rate, trains
from training.loop.run import Run
from training.reports.auto import COLUMNS as STAGE_COLUMNS
from training.reports.auto import stage_rows
from training.reports.certainty import COLUMNS as CERTAINTY_COLUMNS
from training.reports.certainty import certainty_rows
from training.reports.html_page import render
from training.reports.mistakes import Mistake, worst_mistakes
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
    source: BatchSource,
    run: Run,
    context: TrainContext,
    table: Sequence[LayerRow],
    metrics: dict[str, Any],
    probabilities: Tensor,
    targets: Tensor,
) -> None:
    """Write `report.html` and `report/*.png`.

    Args:
        model: the best one, for the heat maps of its mistakes; source: of its predictions.
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
    mistakes = worst_mistakes(model, source, context, probabilities, targets)
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
    held_out = metrics["held_out"]
    return render(
        "run.html",
        network=context.architecture.title,
        config=context.config,
        data=context.data,
        held_out=held_out,
        calibration=metrics["calibration"],
        weaknesses=weaknesses(held_out),
        numbers=_numbers(metrics),
        certainty_columns=CERTAINTY_COLUMNS,
        certainty_rows=certainty_rows(metrics),
        plots=plots,
        class_rows=_class_rows(held_out),
        acceptance=metrics["acceptance"],
        acceptance_summary=summary(metrics["acceptance"]),
        acceptance_rows=_acceptance_rows(metrics["acceptance"]),
        mistakes=mistakes,
        data_rows=_data_rows(context),
        auto=metrics.get("auto"),
        stage_rows=stage_rows(metrics["auto"]) if "auto" in metrics else [],
        stage_columns=STAGE_COLUMNS,
        layer_rows=[(row.name, f"{row.parameters:,}", trains(row), rate(row)) for row in table],
    )


def _numbers(metrics: dict[str, Any]) -> list[tuple[str, str]]:
    held_out = metrics["held_out"]
    return [
        ("accuracy", f"{held_out['accuracy']:.1%}"),
        ("top-5 accuracy", f"{held_out['top5_accuracy']:.1%}"),
        ("macro F1", f"{held_out['macro_f1']:.3f}"),
        ("calibration error", f"{held_out['expected_calibration_error']:.3f}"),
        ("temperature", f"{metrics['calibration']['temperature']:.2f}"),
        ("epoch saved", f"{metrics['best_epoch']} of {metrics['history'][-1]['epoch']}"),
    ]


def _acceptance_rows(acceptance: dict[str, Any]) -> list[Sequence[str]]:
    named = {"validation": acceptance["val"], "held out": acceptance["held_out"]}
    rows: list[Sequence[str]] = [
        (name, str(row["images"]), f"{row['accepted']:.1%}", _share(row["precision"]),
         f"{row['beyond_limit']:.1%}")
        for name, row in named.items()
    ]  # fmt: skip
    if (ood := acceptance["unlike"]) is not None:
        share = f"{ood['accepted']:.1%}"
        rows.append(("OOD data", str(ood["images"]), share, "", f"{ood['beyond_limit']:.1%}"))
    return rows


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _class_rows(held_out: dict[str, Any]) -> list[Sequence[str]]:
    return [
        (
            row.label,
            f"{row.precision:.3f}",
            f"{row.recall:.3f}",
            f"{row.f1:.3f}",
            str(row.support),
        )
        for row in class_scores(held_out)
    ]


def _data_rows(context: TrainContext) -> list[Sequence[str]]:
    counts = context.data.counts()
    rows: list[Sequence[str]] = [
        (label, *(str(counts[split][label]) for split in SPLITS)) for label in context.data.labels
    ]
    return [*rows, ("all", *(str(len(context.data.split(split))) for split in SPLITS))]
