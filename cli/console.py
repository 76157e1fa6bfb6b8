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
from rich.table import Column
from rich.text import Text

from cli.streams import LastingStream
from models.text import shown, shown_lines
from training.reporter import Advance


class ConsoleReporter:
    """Tells it in the terminal. Bars are drawn there only, not in a log file."""

    def __init__(
        self, out: Console | None = None, err: Console | None = None, *, verbose: bool = False
    ) -> None:
        self.verbose = verbose
        self._out = out or Console(file=_lasting(sys.stdout), highlight=False)
        self._err = err or Console(file=_lasting(sys.stderr), highlight=False)

    def say(self, message: str) -> None:
        self._out.print(Text(shown_lines(message)), soft_wrap=True)

    def warn(self, message: str) -> None:
        line = Text.assemble(("warning:", "yellow"), " ", shown(message))
        self._err.print(line, soft_wrap=True)

    @contextmanager
    def progress(self, description: str, total: int, *, unit: str = "") -> Iterator[Advance]:
        # One line, however narrow: the bar takes what the words leave, and a word that has no room
        # is cut rather than wrapped into a second line.
        columns = (
            TextColumn("{task.description}", markup=False, table_column=_cell()),
            BarColumn(bar_width=None, table_column=Column(ratio=1)),
            MofNCompleteColumn(table_column=_cell()),
            *([_RateColumn(unit, table_column=_cell())] if unit else ()),
            TextColumn("{task.fields[note]}", markup=False, table_column=_cell()),
            _TimeLeftColumn(compact=True, table_column=_cell()),
        )
        hidden = not self._out.is_terminal
        with Progress(
            *columns, console=self._out, transient=True, disable=hidden, expand=True
        ) as bar:
            task = bar.add_task(description, total=total, note="")
            yield lambda done, note: bar.update(task, advance=done, note=note)


def _lasting(stream: TextIO) -> TextIO:
    """A run goes on, and saves, when its terminal is closed."""
    return cast(TextIO, LastingStream(stream))


def _cell() -> Column:
    return Column(no_wrap=True, overflow="ellipsis")


class _RateColumn(ProgressColumn):
    """What is counted per second, from rich's smoothed speed."""

    def __init__(self, unit: str, table_column: Column) -> None:
        super().__init__(table_column)
        self._unit = unit

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.0f} {self._unit}/s" if task.speed else "", style="cyan")


class _TimeLeftColumn(TimeRemainingColumn):
    def render(self, task: Task) -> Text:
        return Text.assemble(super().render(task), " left")
