"""The commands that answer: `serve`, `predict`, `doctor`, and `classify`, which asks a service."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cli import panels
from cli.common import say

app = typer.Typer()


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
