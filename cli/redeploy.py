"""The redeploy job, and what goes into it and comes of it: `redeploy`, `build`, `label`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli import panels
from cli.common import reporter, say
from cli.events import deliver_events

app = typer.Typer()


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
