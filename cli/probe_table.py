"""What `vgg19 probe` prints."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from cli.common import table_console, text
from models.linear.predictions import doubt
from training.probe.judge import DepthScore
from training.probe.probe import Probe
from training.probe.report import expected_at_twice, hardest_pairs

_SHOWN = 10


def print_probe(probe: Probe, console: Console | None = None) -> None:
    """A row for each depth, what more images would bring, what is confused, which labels are
    suspect, and what to train."""
    out = console or table_console()
    out.print(_depths(probe))
    best = probe.best.depth.name
    if probe.curve:
        _say(out, f"learning curve at {best}: {_curve(probe)}")
    pairs = hardest_pairs(probe)
    if pairs:
        words = [f"{one} / {other} {count} of {all_}" for one, other, count, all_ in pairs]
        _say(out, f"most confused at {best}: {', '.join(words)}")
    print_suspects(probe, out)
    _say(out, f"recommended: {probe.recommendation.reason}")
    if probe.command is not None:
        out.print(text(f"  {probe.command}"), style="bold", soft_wrap=True)


def print_suspects(probe: Probe, console: Console | None = None) -> None:
    """The worst ten, each with its nearest images."""
    out = console or table_console()
    suspects, predictions = probe.suspects, probe.best.predictions
    found = f"{len(suspects)} of {len(predictions.targets)}"
    _say(out, f"labels that the other images contradict: {found}")
    if not suspects:
        return
    why = doubt(predictions)
    if why is not None:
        _say(out, f"  only {why}")
    table = Table("  file", "label", "suggested", "margin", "nearest", box=None)
    for suspect in suspects[:_SHOWN]:
        nearest = ", ".join(one.label for one in suspect.nearest)
        cells = (f"  {suspect.file}", suspect.label, suspect.suggested, f"{suspect.margin:.2f}")
        table.add_row(*map(text, (*cells, nearest)))
    out.print(table)
    if len(suspects) > _SHOWN:
        _say(out, f"  and {len(suspects) - _SHOWN} more (all of them with --suspects)")


def _depths(probe: Probe) -> Table:
    table = Table(box=None)
    table.add_column("depth")
    for name in ("values", "error", "right", "95% interval", "balanced", "seconds"):
        table.add_column(name, justify="right")
    for score in probe.scores:
        table.add_row(*_row(score), style="bold" if score is probe.best else None)
    classes = len(probe.data.labels)
    table.add_row("largest class", "", "", f"{probe.majority:.1%}", "", f"{1 / classes:.1%}", "")
    return table


def _row(score: DepthScore) -> list[str]:
    predictions = score.predictions
    low, high = predictions.interval
    return [
        score.depth.name,
        f"{score.depth.values:,}",
        f"{predictions.error:.3f}",
        f"{predictions.accuracy:.1%}",
        f"{low:.1%} - {high:.1%}",
        f"{predictions.balanced_accuracy:.1%}",
        f"{score.seconds:.2f}",
    ]


def _curve(probe: Probe) -> str:
    points = [f"{point.images:,} images {point.accuracy:.1%}" for point in probe.curve]
    predictions = probe.best.predictions
    points.append(f"{len(predictions.targets):,} {predictions.accuracy:.1%}")
    twice = expected_at_twice(probe)
    return f"{', '.join(points)}; twice as many would bring about {twice:.1%}"


def _say(out: Console, line: str) -> None:
    out.print(text(line))
