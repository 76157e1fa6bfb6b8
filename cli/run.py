"""The commands about a finished run: `evaluate` and `export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cli import panels
from cli.common import reporter, say, table_console, text
from cli.data_options import (
    AllowConflictingLabels,
    ImageColumn,
    LabelColumn,
    SplitColumn,
    SplitNames,
    column_values,
)
from models.errors import UserError

app = typer.Typer()

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="run directory of 'vgg19 train'")]


@app.command(rich_help_panel=panels.TRAIN)
def evaluate(
    run: RunArgument,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Other images, as train takes them; of these the test split, if there is "
            "one.  [default: the run's held-out split]"
        ),
    ] = None,
    label_column: LabelColumn = None,
    image_column: ImageColumn = None,
    split_column: SplitColumn = None,
    split_name: SplitNames = None,
    allow_conflicting_labels: AllowConflictingLabels = False,
) -> None:
    """Evaluate a run's best checkpoint on held-out images.

    Example: `vgg19 evaluate runs/flowers --data new-photos`
    """
    from training.evaluate.evaluation import evaluate_run

    columns = column_values(label_column, image_column, split_column, split_name)
    if data is None and (allow_conflicting_labels or any(columns.values())):
        raise UserError("options for columns and splits need --data; the run has its own")
    metrics, source = evaluate_run(
        run, data, reporter(), columns=columns, allow_conflicting_labels=allow_conflicting_labels
    )
    _print_metrics(metrics, source)


@app.command(rich_help_panel=panels.RELEASE)
def export(
    run: RunArgument,
    variant: Annotated[
        list[str] | None,
        typer.Option(
            help="Also write a smaller or faster graph: fc8, fc4, fp16, int8, ncnn; auto measures "
            "which is best here. May be repeated."
        ),
    ] = None,
) -> None:
    """Export a run's best checkpoint to ONNX, checked against PyTorch, as RUN/bundle.

    Example: `vgg19 export runs/flowers --variant auto`
    """
    from training.export.bundle import export_run
    from training.export.variants import VariantJob
    from training.loop.run import Run

    telling = reporter()
    job = VariantJob.of(Run(run), variant, telling) if variant else None
    bundle, parity = export_run(Run(run), job, telling)
    say(
        f"ONNX equals PyTorch: largest probability difference "
        f"{parity.max_probability_difference:.1e} (limit {parity.tolerance:.0e}) at batch sizes "
        f"{', '.join(map(str, parity.batch_sizes))}, same top-1 everywhere"
    )
    if job is not None:
        for line in job.report():
            say(line)
    size = bundle.size_bytes / 1e6
    say(f"bundle written to {bundle.path} ({size:.0f} MB); next: vgg19 register {run}")


def _print_metrics(metrics: dict[str, Any], source: str) -> None:
    from rich.table import Table

    from models.bundle.metrics import class_scores, weaknesses

    table = Table("class", "precision", "recall", "F1", "images", box=None)
    for row in class_scores(metrics):
        values = [f"{value:.3f}" for value in (row.precision, row.recall, row.f1)]
        table.add_row(text(row.label), *values, str(row.support))
    table_console().print(table)
    say(f"accuracy on {source} ({metrics['images']} images): {metrics['accuracy']:.1%}")
    for weakness in weaknesses(metrics):
        say(f"warning: {weakness}")
