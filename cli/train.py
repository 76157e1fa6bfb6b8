"""The commands that train: `train`, and what one asks before it and after it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cli import panels, probe
from cli.common import ANSWER_IS_NO, reporter, say
from cli.config_flags import config_flags, given
from cli.data_options import (
    ImageColumn,
    LabelColumn,
    SplitColumn,
    SplitNames,
    column_values,
    split_names,
)
from models.errors import UserError
from training.loop.config import RESUMABLE
from training.loop.config_file import flag, load_config

app = typer.Typer()

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        help="YAML file with any flag of train as a key, such as `batch_size: 64`; flags win."
    ),
]


@app.command(rich_help_panel=panels.TRAIN)
@config_flags()
def train(
    config: ConfigOption = None,
    split_name: SplitNames = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Continue a run that was stopped. Of the other options it only takes "
            f"{', '.join(map(flag, RESUMABLE))}.",
        ),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Show every layer of the network.")
    ] = False,
    **values: Any,
) -> None:
    """Fine-tune VGG-19 on labelled images.

    Example: `vgg19 train --data flowers --output runs/flowers`

    `--strategy auto` finds out what to unfreeze. By hand: start with strategy `fc`. If accuracy is
    too low, unfreeze more: `gradual`, then `full`.
    """
    from training.auto.train import resume as resume_run
    from training.auto.train import train as train_run

    values["split_names"] = split_names(split_name)
    changes = given(values | {"config": config})
    if resume is not None:
        resume_run(resume, reporter(verbose=verbose), changes)
    else:
        train_run(load_config(config, given(values)), reporter(verbose=verbose))


@app.command(rich_help_panel=panels.TRAIN)
@config_flags(("data", "weights", "strategy", "head_init", "image_size", "batch_size"))
def find_lr(
    config: ConfigOption = None,
    lowest: Annotated[float, typer.Option(help="Rate to begin with.")] = 1e-7,
    highest: Annotated[float, typer.Option(help="Rate to end with.")] = 1.0,
    steps: Annotated[int, typer.Option(help="Batches to train on, from 20.")] = 100,
    output: Annotated[Path, typer.Option(help="Picture to write.")] = Path("find-lr.png"),
    **values: Any,
) -> None:
    """Find a learning rate: raise it step by step and watch the loss.

    Example: `vgg19 find-lr --data flowers`
    """
    from training.loop.find_lr import find_learning_rate, plot
    from training.loop.preflight import check_rates

    check_rates(lowest, highest, steps, output)
    settings = load_config(config, given(values))
    test = find_learning_rate(settings, reporter(), lowest=lowest, highest=highest, steps=steps)
    plot(test, output)
    say(f"suggested: --learning-rate {test.suggestion:.1e}; the curve is in {output}")


@app.command(rich_help_panel=panels.IMAGES)
def check_data(
    data: Annotated[Path, typer.Argument(help="folder, .csv file, or hf:NAME")],
    output: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
    label_column: LabelColumn = None,
    image_column: ImageColumn = None,
    split_column: SplitColumn = None,
    split_name: SplitNames = None,
    labels: Annotated[
        bool, typer.Option("--labels", help="Also look for wrong labels, as probe does.")
    ] = False,
    weights: Annotated[str | None, typer.Option(help="With --labels: see probe.")] = None,
    image_size: Annotated[int | None, typer.Option(help="With --labels: see probe.")] = None,
    suspects: probe.SuspectsOption = None,
) -> None:
    """Check a data set for problems; exit code 3 if images leak between its splits (1: an error).

    Example: `vgg19 check-data flowers --output check.json`
    """
    from cli.data_table import print_report
    from training.data.check_data import check_data as check
    from training.data.listing import Columns

    network = {"weights": weights, "image_size": image_size}
    if not labels and (suspects is not None or any(network.values())):
        raise UserError("--weights, --image-size and --suspects are for --labels")
    probe.check_writable(suspects)
    names = column_values(label_column, image_column, split_column, split_name)
    report = check(data, reporter(), columns=Columns().with_given(**names))
    print_report(report)
    if output is not None:
        report.write(output)
    if labels:
        probe.check_labels({"data": data, **names, **network}, suspects)
    if report.leaks:
        raise typer.Exit(ANSWER_IS_NO)


@app.command(rich_help_panel=panels.TRAIN)
def reproduce(
    source: Annotated[str, typer.Argument(metavar="RUN|TAG", help="a run, or a registered model")],
    output: Annotated[
        Path | None,
        typer.Option(
            help="Directory of the new run, which is kept.  [default: the old one's name with "
            "-reproduced]"
        ),
    ] = None,
) -> None:
    """Train a run again as recorded, and compare the weights.

    Example: `vgg19 reproduce runs/flowers`

    Exit code 3 if they differ; 1 is an error.
    """
    from training.loop.reproduce import default_output
    from training.loop.reproduce import reproduce as train_again

    result = train_again(source, output or default_output(source), reporter())
    if result.identical:
        say("the weights are bit-identical")
        return
    say("the weights differ")
    for difference in result.differences or ["no recorded input differs: an operation is random"]:
        say(f"  {difference}")
    raise typer.Exit(ANSWER_IS_NO)
