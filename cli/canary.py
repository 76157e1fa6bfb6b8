"""The command about a version that answers a part of the requests."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import panels
from cli.common import say, table_console, text

if TYPE_CHECKING:
    from models.monitoring.canary_tests import CanaryLimits

app = typer.Typer()


@app.command(rich_help_panel=panels.PRODUCTION)
def canary(
    tag: Annotated[str | None, typer.Argument(help="tag, version or latest")] = None,
    percent: Annotated[
        float | None, typer.Option(help="Share of the clients, until you decide.")
    ] = None,
    steps: Annotated[
        str | None, typer.Option(help="Rising percentages, e.g. 5,25,100; at 100 it is promoted.")
    ] = None,
    wait_hours: Annotated[
        float | None, typer.Option(min=0, help="How long each step lasts.  [default: 1]")
    ] = None,
    min_requests: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="That it and production must each have answered before the next step.  "
            "[default: 100]",
        ),
    ] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND=SHARE",
            help="How much more than production's may be failed, slow, refused or unfamiliar, as "
            "failed=0.02, or failed=any; may be repeated.  [default: failed=0.01, slow=0.15, "
            "refused=0.05, unfamiliar=0.05]",
        ),
    ] = None,
    header: Annotated[
        str, typer.Option(help="That tells clients apart.  [default: API key, or else address]")
    ] = "",
    abort: Annotated[bool, typer.Option("--abort", help="End it: production answers all.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="What it has shown, as JSON.")] = False,
) -> None:
    """Send a share of the clients to a version; it is withdrawn automatically if it does harm.

    Example: `vgg19 canary latest --steps 5,25,100 --wait-hours 2`, later `vgg19 canary`

    The running services take it up by themselves. A client stays with one version.
    """
    from models.registry import canaries

    if sum((tag is not None, abort, as_json)) > 1:
        raise typer.BadParameter("name one of TAG, --abort and --json")
    waits = {"wait_hours": wait_hours, "min_requests": min_requests}
    given = {name: value for name, value in waits.items() if value is not None}
    if tag is not None:
        if (percent is None) == (steps is None):
            raise typer.BadParameter("name one of --percent and --steps")
        if given and steps is None:
            raise typer.BadParameter("--wait-hours and --min-requests go with --steps")
        begun = canaries.start_canary(
            tag,
            [percent] if percent is not None else _numbers(steps or ""),
            header=header,
            limits=_limits(limit or []),
            **(_WAITS | given),
        )
        say(
            f"{begun.version} answers {begun.percent:g}% of the clients in some seconds; next: "
            "vgg19 canary"
        )
        return
    if given or header or limit or percent is not None or steps is not None:
        raise typer.BadParameter("steps and limits go with the TAG that they are for")
    if abort:
        ended = canaries.abort_canary()
        say(f"production answers all again, {ended.version} nobody" if ended else _NONE)
        return
    _look(as_json=as_json)


_WAITS: dict[str, Any] = {"wait_hours": 1.0, "min_requests": 100}
_NONE = "no canary is running; start one with: vgg19 canary TAG --steps 5,25,100"


def _limits(given: list[str]) -> CanaryLimits:
    from pydantic import ValidationError

    from models.monitoring.canary_tests import KINDS, CanaryLimits

    shares: dict[str, str | None] = {}
    for one in given:
        kind, _, share = one.partition("=")
        if kind not in KINDS:
            raise typer.BadParameter(f"'{one}' names none of {', '.join(KINDS)}, as failed=0.02")
        shares[kind] = None if share == "any" else share
    try:
        return CanaryLimits.model_validate(shares)
    except ValidationError as error:
        wrong = str(error.errors(include_url=False)[0]["loc"][0])
        raise typer.BadParameter(
            f"the limit of {wrong} is '{shares[wrong]}'; it must be a share from 0 to below 1, or "
            "any"
        ) from None


def _numbers(steps: str) -> list[float]:
    try:
        return [float(step) for step in steps.split(",")]
    except ValueError:
        raise typer.BadParameter(f"'{steps}' is no list like 5,25,100") from None


def _look(*, as_json: bool) -> None:
    from rich.table import Table

    from models.monitoring.canary_tests import evidence
    from models.registry import canaries

    if as_json:
        say(json.dumps(canaries.canary_json() or {}))
        return
    canary = canaries.current_canary()
    if canary is None:
        say(_NONE)
        return
    tallies = canaries.tallies_of(canary)
    found = evidence(tallies, canary.limits)
    requests = sum(tally.requests for tally in tallies)
    beside = sum(tally.production_requests for tally in tallies)
    steps = ", ".join(f"{step:g}" for step in canary.steps)
    say(
        f"{canary.version} answers {canary.percent:g}% (of steps {steps}) since "
        f"{canary.step_hours:.1f} hours, {requests} requests so far; production, "
        f"{canary.against}, {beside}"
    )
    table = Table(box=None)
    for name in ("", "canary", "production", "may be above by", "evidence of harm"):
        table.add_column(name)
    for one in found:
        share = f"{max(0.0, one.log_e / canary.limits.threshold):.0%} of what takes it back"
        sides = [f"{s.hits} of {s.count}" for s in (one.canary, one.production)]
        table.add_row(*map(text, (one.kind, *sides, f"{one.margin:.0%}", share)))
    table_console().print(table)
    for tally in tallies:
        why = f": {tally.reason}" if tally.reason else ""
        say(f"  {tally.worker}: {tally.state}{why}")
