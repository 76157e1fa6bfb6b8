"""The `vgg19` command. Each command imports what it needs, so that --help is quick and the
serving commands work where PyTorch isn't installed."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from cli import cache, canary, drift, events, key, panels, probe, review, shadow, sign, store
from cli.common import ANSWER_IS_NO, reporter, say, say_error, table_console, text
from cli.config_flags import config_flags, given
from cli.data_options import (
    AllowConflictingLabels,
    ImageColumn,
    LabelColumn,
    SplitColumn,
    SplitNames,
    column_values,
    split_names,
)
from models.errors import UserError
from models.paths import expand_home
from models.text import escape_unencodable
from serving import environment
from training.loop.config import RESUMABLE
from training.loop.config_file import flag, load_config

app = typer.Typer(
    name="vgg19",
    help="Fine-tune VGG-19 on your own images, export it to ONNX and serve it.",
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)

# Typer exports this one and hides the class below it (its own copy of click's).
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]

app.add_typer(store.app)
app.add_typer(shadow.app)
app.add_typer(canary.app)
app.add_typer(sign.app)
app.add_typer(key.app)
app.add_typer(probe.app)
app.add_typer(review.app)
app.add_typer(drift.app)
app.add_typer(cache.app, name="cache", rich_help_panel=panels.TRAIN)
app.add_typer(events.app, name="events", rich_help_panel=panels.PRODUCTION)

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="run directory of 'vgg19 train'")]


def main() -> None:
    """Entry point: a user's mistake is one line on stderr and exit code 1 (usage: 2)."""
    # Gradients and activations are freed and allocated again with every step; in huge pages a step
    # on the CPU takes 10-15% less (PyTorch reads this when it is imported; Linux only).
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    escape_unencodable()
    environment.prepare()  # before anything goes to another directory
    arguments = [_at_home(argument) for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup leaves it
            signal.signal(number, _end)
    try:
        code = app(arguments or ["--help"], prog_name="vgg19", standalone_mode=False)
    except (UserError, _UsageError, OSError, Ended) as error:
        if debug:
            raise
        code = getattr(error, "exit_code", 1)
        with suppress(OSError):  # of a terminal that was closed
            code = _report(error)
        sys.exit(code)
    sys.exit(code or 0)


def _at_home(argument: str) -> str:
    """With ~ replaced where the shell leaves it: in --data=~/images, and in quotes. Nothing but
    paths begins with it."""
    name, equals, value = argument.partition("=")
    if argument.startswith("--") and value.startswith("~"):
        return name + equals + expand_home(value)
    return expand_home(argument)


class Ended(BaseException):
    """A signal asked the command to end. Unwinds, so that nothing half-written stays."""

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.exit_code = 128 + number


def _end(number: int, _: object) -> None:
    raise Ended(number)


def _show_version(wanted: bool) -> None:
    if wanted:
        say(version("vgg19-finetune"))
        raise typer.Exit


@app.callback()
def _global_options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, help="Show the version.")
    ] = False,
) -> None:
    """Declared here for --help; `main` takes --debug wherever it stands."""


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


@app.command(rich_help_panel=panels.SERVE)
def serve(
    host: Annotated[
        str, typer.Option(help="IP address to listen on, for HTTP and gRPC.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="HTTP port.")] = 3000,
    grpc_port: Annotated[
        int, typer.Option(min=1, max=65535, envvar="VGG19_GRPC_PORT", help="gRPC port.")
    ] = 3001,
    model: Annotated[
        str, typer.Option(envvar="VGG19_MODEL", help="production, latest, a version or a tag.")
    ] = "production",
) -> None:
    """Serve a registered model over HTTP and gRPC, with BentoML.

    Example: `vgg19 serve --port 8080`

    Other settings are environment variables `VGG19_...`, see docs/operate/configure.md.
    """
    from cli.launch import page_address, serve_with_bentoml

    say(f"once the service is ready, its page is at {page_address(host, port)}")
    serve_with_bentoml(host, port, grpc_port, model)


class Engine(StrEnum):
    """What `vgg19 predict` classifies with."""

    LOCAL = "local"
    RAY = "ray"


@app.command(rich_help_panel=panels.SERVE)
def predict(
    sources: Annotated[
        list[str],
        typer.Argument(help="folder, CSV with a column 'path', files, or a pattern 'a/**/*.jpg'"),
    ],
    output: Annotated[Path, typer.Option(help="Table to write, .csv or .parquet.")] = Path(
        "predictions.csv"
    ),
    top_k: Annotated[int, typer.Option(min=1, help="Labels for each image.")] = 5,
    model: Annotated[
        str, typer.Option(envvar="VGG19_MODEL", help="production, latest, a version or a tag.")
    ] = "production",
    engine: Annotated[
        Engine, typer.Option(help="local; ray: on the cluster at RAY_ADDRESS, or on this machine.")
    ] = Engine.LOCAL,
    workers: Annotated[int, typer.Option(min=0, help="For Ray; 0: one per machine.")] = 0,
) -> None:
    """Classify images without a server.

    Example: `vgg19 predict photos --output photos.parquet`

    If it is interrupted, run the same command again to continue. Device, precision and batch size
    are the service's settings, `VGG19_...`, see docs/operate/configure.md.
    """
    from cli.launch import run_predict

    run_predict(sources, output, top_k, model, engine.value, workers)


@app.command(rich_help_panel=panels.SERVE)
def doctor() -> None:
    """Show what the service would run on here, and why, and time it.

    Example: `VGG19_DEVICE=cuda vgg19 doctor`

    Exit code 1 if the service would not start.
    """
    from cli.launch import run_doctor

    run_doctor()


@app.command(rich_help_panel=panels.SERVE)
def classify(
    url: Annotated[str, typer.Argument(help="of the service, e.g. http://127.0.0.1:3000")],
    images: Annotated[list[str], typer.Argument(help="files, folders, or patterns")],
    top_k: Annotated[int, typer.Option(min=1, help="Labels to show for each image.")] = 3,
    heat_maps: Annotated[
        Path | None,
        typer.Option(help="Folder for the images under their heat maps.", show_default=False),
    ] = None,
    api_key_env: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Environment variable that holds the API key.", show_default=False
        ),
    ] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(help="File that holds the API key.", show_default=False)
    ] = None,
) -> None:
    """Classify images with a running service. Exit code 1 if an image has no answer.

    Example: `vgg19 classify http://127.0.0.1:3000 rose.jpg tulip.jpg`
    """
    from cli.classify import classify as classify_images
    from cli.client import Service, api_key

    service = Service(url, api_key(api_key_env, api_key_file))
    if classify_images(service, images, top_k, heat_maps):
        raise typer.Exit(1)


def _report(error: BaseException) -> int:
    """Print one line about what went wrong; return the exit code."""
    if isinstance(error, Ended):
        say_error("interrupted")
        return error.exit_code
    if isinstance(error, _UsageError):
        message = " ".join(error.format_message().split())  # type: ignore[attr-defined]
        say_error(f"error: {message} (see vgg19 COMMAND --help)")
        return 2
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        say_error(f"error: {where}{error.strerror or error}")
        return 1
    say_error(f"error: {error}")
    return getattr(error, "exit_code", 1)


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


if __name__ == "__main__":
    main()
