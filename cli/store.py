"""The commands about registered models, and which one serves."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cli import panels
from cli.common import JsonLines, bundle_in, say, table_console, text
from cli.events import deliver_events

app = typer.Typer()


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
