"""`vgg19 models`: what is in the store, and copies of it elsewhere."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from cli.common import JsonLines, say, say_error, table_console, text
from cli.events import deliver_events

if TYPE_CHECKING:
    from models.registry.store import StoredModel

app = typer.Typer(invoke_without_command=True)


@app.callback()
def models(context: typer.Context, as_json: JsonLines = False) -> None:
    """List the registered models, newest first; push them to a URL, pull them from one.

    Example: `vgg19 models`
    """
    if context.invoked_subcommand is None:
        _print_models(as_json)


@app.command("push")
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


@app.command("pull")
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
