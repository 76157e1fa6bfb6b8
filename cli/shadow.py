"""The command about a version in production's shadow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import panels
from cli.common import ANSWER_IS_NO, say, table_console, text

if TYPE_CHECKING:
    from models.registry.shadowing import ShadowStatus

app = typer.Typer()


@app.command(rich_help_panel=panels.PRODUCTION)
def shadow(
    tag: Annotated[str | None, typer.Argument(help="tag, version or latest")] = None,
    min_images: Annotated[
        int | None, typer.Option(help="That both must have answered.  [default: 2000]")
    ] = None,
    min_hours: Annotated[float | None, typer.Option(help="Of traffic.  [default: 24]")] = None,
    min_agreement: Annotated[
        float | None, typer.Option(help="Share of images with the same label.  [default: 0.8]")
    ] = None,
    max_latency_ratio: Annotated[
        float | None, typer.Option(help="Of the times of one image.  [default: 1.25]")
    ] = None,
    stop: Annotated[bool, typer.Option("--stop", help="End it.")] = False,
    report: Annotated[
        Path | None, typer.Option(help="Write a page with what it has shown so far.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="What it has shown, as JSON.")] = False,
) -> None:
    """Run a version on production's images without showing its answers; or report how it does.

    Example: `vgg19 shadow latest --min-images 2000 --min-hours 24`, later `vgg19 shadow`

    The running services take it up by themselves. `promote` refuses a version in the shadow until
    its rule holds. Exit code of a look: 0 the rule holds, or nothing runs; 3 it doesn't; 5 not yet.
    """
    from models.registry import shadowing

    limits = {
        "min_images": min_images,
        "min_hours": min_hours,
        "min_agreement": min_agreement,
        "max_latency_ratio": max_latency_ratio,
    }
    given = {name: value for name, value in limits.items() if value is not None}
    if sum((tag is not None, stop, report is not None, as_json)) > 1:
        raise typer.BadParameter("name one of TAG, --stop, --report and --json")
    if tag is not None:
        _begin(tag, given)
        return
    if given:
        raise typer.BadParameter("limits go with the TAG that they are for")
    if stop:
        stopped = shadowing.stop_shadow()
        say(f"{stopped.version} is in no shadow any more" if stopped else "no shadow was running")
        return
    _look(shadowing.shadow_status(), report, as_json=as_json)


def _begin(tag: str, given: dict[str, float]) -> None:
    from pydantic import ValidationError

    from models.errors import UserError
    from models.monitoring.shadow_rule import ShadowRule
    from models.registry.shadowing import start_shadow

    try:
        rule = ShadowRule.model_validate(given)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        name = "".join(f"--{str(part).replace('_', '-')}: " for part in problem["loc"])
        raise UserError(f"{name}{problem['msg'].removeprefix('Value error, ')}") from None
    begun = start_shadow(tag, rule)
    say(
        f"{begun.version} goes into the shadow of {begun.against}; the running services take it up "
        "in some seconds; next: vgg19 shadow"
    )


_CODES = {"passed": 0, "refused": ANSWER_IS_NO, "waiting": 5}


def _look(status: ShadowStatus | None, report: Path | None, *, as_json: bool) -> None:
    if status is None:
        say("{}" if as_json else "no shadow is running; start one with: vgg19 shadow TAG")
        return
    if report is not None:
        from models.registry import shadowing
        from models.registry.tallies import read_pictures
        from training.reports.shadow import write_shadow_report

        pictures = read_pictures(shadowing.directory(), status.shadow.id)
        write_shadow_report(status, pictures, report)
        say(f"wrote {report}")
    elif as_json:
        say(json.dumps(status.as_json()))
    else:
        _print(status)
    raise typer.Exit(_CODES[status.outcome])


def _print(status: ShadowStatus) -> None:
    from rich.table import Table

    shadow = status.shadow
    say(f"{shadow.version} in the shadow of {shadow.against} for {shadow.age_hours:.1f} hours")
    if status.is_stale:
        say("production became another version meanwhile, so nothing is compared any more")
    table = Table(box=None)
    for name in ("rule", "measured", "limit", ""):
        table.add_column(name)
    for verdict in status.verdicts:
        mark = "holds" if verdict.passed else "not yet" if status.outcome == "waiting" else "fails"
        table.add_row(*map(text, (verdict.rule, verdict.measured, verdict.limit, mark)))
    table_console().print(table)
    seen = status.seen
    say(f"dropped: {seen.dropped}, skipped: {seen.skipped}, not answered: {seen.failed}")
    for tally in status.tallies:
        why = f": {tally.reason}" if tally.reason else ""
        say(f"  {tally.worker}: {tally.state}{why}, {tally.comparison.images} images")
