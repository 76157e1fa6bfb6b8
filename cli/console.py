"""What a person sees in the terminal while a job runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO, cast

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from cli.streams import LastingStream
from models.text import shown, shown_lines
from training.reporter import Advance


class ConsoleReporter:
    """Tells it in the terminal. Bars are drawn there only, not in a log file."""

    def __init__(self, out: Console | None = None, err: Console | None = None) -> None:
        self._out = out or Console(file=_lasting(sys.stdout), highlight=False)
        self._err = err or Console(file=_lasting(sys.stderr), highlight=False)

    def say(self, message: str) -> None:
        self._out.print(Text(shown_lines(message)), soft_wrap=True)

    def warn(self, message: str) -> None:
        line = Text.assemble(("warning:", "yellow"), " ", shown(message))
        self._err.print(line, soft_wrap=True)

    @contextmanager
    def progress(self, description: str, total: int) -> Iterator[Advance]:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            _RateColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        hidden = not self._out.is_terminal
        with Progress(*columns, console=self._out, transient=True, disable=hidden) as bar:
            task = bar.add_task(description, total=total, note="")
            yield lambda done, note: bar.update(task, advance=done, note=note)


def _lasting(stream: TextIO) -> TextIO:
    """A run goes on, and saves, when its terminal is closed."""
    return cast(TextIO, LastingStream(stream))


class _RateColumn(ProgressColumn):
    """Images per second, from rich's smoothed speed."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f} images/s" if task.speed else "", style="cyan")
