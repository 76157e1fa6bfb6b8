"""The commands about registered models, which one serves, and the job that decides that."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import panels
from cli.common import bundle_in, reporter, say, say_error, table_console, text
from cli.events import deliver_events

if TYPE_CHECKING:
    from models.registry.store import StoredModel

app = typer.Typer()

JsonLines = Annotated[bool, typer.Option("--json", help="As JSON lines.")]


@app.command(rich_help_panel=panels.RELEASE)
def register(
    path: Annotated[Path, typer.Argument(metavar="RUN", help="run directory or bundle")],
) -> None:
    """Put a bundle into the BentoML model store.

    Example: `vgg19 register runs/flowers`
    """
    from models.events.announcing import announce_registration
    from models.registry import store

    tag = store.register(bundle_in(path))
    say(f"registered {tag} in {store.store_path()}; next: vgg19 promote {tag}")
    announce_registration(tag)
    deliver_events()


@app.command(rich_help_panel=panels.RELEASE)
def promote(
    tag: Annotated[str, typer.Argument(help="tag, version, or latest")],
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Even if it never predicts some class, is no better than always predicting the "
            "largest, or the rule of its shadow doesn't hold (yet).",
        ),
    ] = False,
) -> None:
    """Put a registered model into production.

    Example: `vgg19 promote vgg19:20260131-120000-1a2b3c`
    """
    from models.bundle.metrics import weaknesses
    from models.errors import StoreError
    from models.registry import shadowing, store

    version = store.resolve(tag)
    found = list(weaknesses(store.inspect_stored(version).metrics().get("held_out", {})))
    if not force and (refusal := shadowing.refusal(version)):
        found.append(f"its shadow: {refusal}")
    if found and not force:
        raise StoreError(f"{tag} is not promoted: {'; '.join(found)}; --force promotes it")
    before = store.production_version_or_none()
    promoted = store.promote(tag)
    say(_production_is(promoted, before, "; next: vgg19 serve, then open http://127.0.0.1:3000"))
    deliver_events()
    shadowing.end_if_stale()  # the last: its file may be damaged


@app.command(rich_help_panel=panels.RELEASE)
def rollback(
    tag: Annotated[
        str | None, typer.Argument(help="version to return to.  [default: the previous one]")
    ] = None,
) -> None:
    """Put the previous model back into production.

    Example: `vgg19 rollback`
    """
    from models.registry import store

    before = store.production_version_or_none()
    say(_production_is(store.rollback(tag), before))
    deliver_events()


def _production_is(tag: str, before: str | None, then: str = "") -> str:
    """What became of production, whose version was `before`."""
    from models.registry.store import MODEL_NAME

    was = f"{MODEL_NAME}:{before}" if before else ""
    if was == tag:
        return f"{tag} is in production already; nothing was changed"
    return f"production is {tag}{f' (it was {was})' if was else ''}{then}"


@app.command(rich_help_panel=panels.RELEASE)
def history(
    as_json: JsonLines = False,
    rollouts: Annotated[
        bool, typer.Option("--rollouts", help="What was tried beside production, in its place.")
    ] = False,
) -> None:
    """Show which models were in production, since when and why; newest first.

    Example: `vgg19 history`
    """
    from rich.table import Table

    from models.registry import store

    if rollouts:
        _print_rollouts(as_json)
        return

    promotions = store.promotions()
    if as_json:
        for promotion in promotions:
            say(promotion.model_dump_json(exclude_none=True))
        return
    if not promotions:
        say("nothing was promoted yet")
        return
    table = Table(box=None)
    width = max(len(promotion.version) for promotion in promotions)
    for name in ("since", "version", "replaced"):
        table.add_column(name, no_wrap=True, min_width=16 if name == "since" else width)
    table.add_column("why")
    for promotion in promotions:
        since = f"{promotion.at.astimezone():%Y-%m-%d %H:%M}"
        table.add_row(
            since, *map(text, (promotion.version, promotion.replaced or "", promotion.why))
        )
    table_console().print(table)


def _print_rollouts(as_json: bool) -> None:
    from rich.table import Table

    from models.registry import shadowing

    events = shadowing.rollouts().events()
    if as_json:
        for event in events:
            say(event.model_dump_json(exclude_none=True))
        return
    if not events:
        say("nothing was tried beside production yet")
        return
    table = Table(box=None)
    for name in ("at", "version", "tried as", "", "why"):
        table.add_column(name, no_wrap=name != "why")
    for event in events:
        at = f"{event.at.astimezone():%Y-%m-%d %H:%M}"
        table.add_row(at, *map(text, (event.version, event.kind, event.what, event.why)))
    table_console().print(table)


@app.command(rich_help_panel=panels.RELEASE)
def diff(
    first: Annotated[str, typer.Argument(help="tag, version, latest or production")],
    second: Annotated[str, typer.Argument(help="another one")],
    as_json: JsonLines = False,
) -> None:
    """Show what differs between two registered models.

    Example: `vgg19 diff production latest`
    """
    from rich.table import Column, Table

    from models.registry.diff import diff_models

    rows = diff_models(first, second)
    if as_json:
        for row in rows:
            say(json.dumps(asdict(row), ensure_ascii=False))
        return
    if not rows:
        say("they are the same")
        return
    table = Table("", Column(text(first)), Column(text(second)), box=None)
    for row in rows:
        table.add_row(*map(text, (row.what, row.first, row.second)))
    table_console().print(table)


@app.command(rich_help_panel=panels.RELEASE)
def redeploy(
    config: Annotated[Path, typer.Option(help="YAML file; --init writes one.")] = Path(
        "redeploy.yaml"
    ),
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for a job that is running.  [default: refuse]")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Train even without new images.")] = False,
    init: Annotated[
        bool,
        typer.Option("--init", help="Write the YAML file from the production model, and exit."),
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option(help="With --init: labelled images.  [default: the production model's]"),
    ] = None,
) -> None:
    """Retrain on new images and, if the result is better, put it into production.

    Example: `vgg19 redeploy --init` once, then `vgg19 redeploy`

    Exit codes: 0 promoted, or nothing new; 3 the challenger was refused; 4 it was promoted, failed
    in the running service and was rolled back; 5 it is in production's shadow, and the same command
    goes on later. An interrupted job goes on where it stopped.
    """
    from cli import bento as builder
    from training.redeploy.config import load_redeploy_config
    from training.redeploy.init import init as write_config
    from training.redeploy.job import redeploy as run_job

    if init:
        write_config(config, data)
        say(f"wrote {config}; look at it, then: vgg19 redeploy --config {config}")
        return
    if data is not None:
        raise typer.BadParameter(
            "goes with --init; else the file names the images", param_hint="--data"
        )
    settings = load_redeploy_config(config)
    try:
        outcome = run_job(settings, reporter(), builder, wait=wait, force=force)
    finally:  # an interrupted job may have promoted, too
        deliver_events()
    say(outcome.message)
    raise typer.Exit(outcome.exit_code)


@app.command(rich_help_panel=panels.RELEASE)
def build(
    tag: Annotated[str, typer.Argument(help="tag, version, latest or production")] = "production",
    flavour: Annotated[
        str, typer.Option(help="cpu or gpu: which ONNX Runtime the image gets.")
    ] = "cpu",
) -> None:
    """Build a Bento with a registered model, for a container image.

    Example: `vgg19 build --flavour gpu`
    """
    from cli.bento import build as build_bento

    if flavour not in ("cpu", "gpu"):
        raise typer.BadParameter(f"'{flavour}' is neither cpu nor gpu", param_hint="--flavour")
    bento = build_bento(tag, "gpu" if flavour == "gpu" else "cpu")
    say(f"built {bento}; next: bentoml containerize {bento}")


@app.command(rich_help_panel=panels.IMAGES)
def label(
    url: Annotated[str, typer.Argument(help="where the service keeps images: VGG19_CAPTURE_URL")],
    output: Annotated[Path, typer.Option(help="Folder for the table and the page.")] = Path(
        "labels"
    ),
    table: Annotated[
        Path | None,
        typer.Option("--from", help="Filled-in labels.csv, whose labels go beside the images."),
    ] = None,
) -> None:
    """Label images that the service has captured, in a table or on a page.

    Example: `vgg19 label captured`, then `vgg19 label captured --from labels.csv`
    """
    from models.captured import captured_images, put_labels
    from models.locations import without_credentials
    from training.redeploy.labelling import write_labelling

    if table is not None:
        count = put_labels(url, table)
        say(f"{count} images in {without_credentials(url)} have a label from a table")
        return
    images = captured_images(url, reporter().warn)
    written, page = write_labelling(images, output)
    say(f"{len(images)} images: fill in {written}, or open {page} in a browser")


models_app = typer.Typer(invoke_without_command=True)
app.add_typer(models_app, name="models", rich_help_panel=panels.RELEASE)


@models_app.callback()
def models(context: typer.Context, as_json: JsonLines = False) -> None:
    """List the registered models, newest first; push them to a URL, pull them from one.

    Example: `vgg19 models`
    """
    if context.invoked_subcommand is None:
        _print_models(as_json)


@models_app.command("push")
def push_model(
    url: Annotated[str, typer.Argument(help="directory, or a URL such as s3://bucket/models")],
    tag: Annotated[str, typer.Argument(help="tag, version, latest or production")] = "production",
) -> None:
    """Copy a registered model to a URL, for other machines.

    Example: `vgg19 models push s3://bucket/models`
    """
    from models.locations import without_credentials
    from models.registry.transfer import push

    say(f"{push(url, tag)} is at {without_credentials(url)}")


@models_app.command("pull")
def pull_model(
    url: Annotated[str, typer.Argument(help="where a model was pushed to")],
    tag: Annotated[str, typer.Argument(help="tag, version or production")] = "production",
) -> None:
    """Copy a model from a URL into the store.

    Example: `vgg19 models pull s3://bucket/models`
    """
    from models.events.announcing import announce_registration
    from models.registry.transfer import pull

    pulled = pull(url, tag)
    say(f"{pulled} is in the store; next: vgg19 promote {pulled}")
    announce_registration(pulled)
    deliver_events()


def _print_models(as_json: bool) -> None:
    from rich.table import Table

    from models.errors import StoreError
    from models.registry import store

    entries = store.list_models()
    if not entries and not as_json:
        say(f"no model in {store.store_path()}; register one with: vgg19 register RUN")
        return
    try:
        production = store.production_version()
    except StoreError as error:  # told, and the tags that repair it are listed all the same
        (say_error if as_json else say)(str(error))
        production = None
    if as_json:
        for entry in entries:
            say(_model_line(entry, entry.version == production))
        return
    table = Table(box=None)
    table.add_column("tag", no_wrap=True, min_width=max(len(entry.tag) for entry in entries))
    for name in ("production", "accuracy", "classes", "strategy", "size"):
        table.add_column(name)
    for entry in entries:
        accuracy = entry.metadata.get("held_out_accuracy")
        table.add_row(
            text(entry.tag),
            "yes" if entry.version == production else "",
            f"{accuracy:.1%}" if isinstance(accuracy, float) else "",
            str(entry.metadata.get("num_classes", "")),
            text(entry.labels.get("strategy", "")),
            f"{entry.size_bytes / 1e6:.0f} MB",
        )
    table_console().print(table)


def _model_line(entry: StoredModel, is_production: bool) -> str:
    content = {
        "tag": entry.tag,
        "created_at": entry.created_at.isoformat(),
        "production": is_production,
        "accuracy": entry.metadata.get("held_out_accuracy"),
        "classes": entry.metadata.get("num_classes"),
        "strategy": entry.labels.get("strategy"),
        "size_bytes": entry.size_bytes,
    }
    return json.dumps(content, ensure_ascii=False)
