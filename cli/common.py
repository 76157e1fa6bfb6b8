"""What the files of commands share."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from models.text import shown, shown_lines

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

JsonLines = Annotated[bool, typer.Option("--json", help="As JSON lines.")]

# Exit code of a command that did what it is for, and whose answer is no: images differ, splits
# leak, a challenger is refused. 1 is an error, 2 a wrong option.
ANSWER_IS_NO = 3


def say(message: str) -> None:
    """Print text whose names may hold anything; its line breaks count."""
    # Not by typer.echo, which writes UTF-8 to a terminal that is known to take ASCII alone.
    _write_line(sys.stdout, shown_lines(message))


def say_error(message: str) -> None:
    """As `say`, on one line of stderr."""
    _write_line(sys.stderr, shown(message))


def _write_line(stream: TextIO, line: str) -> None:
    """In one call. `print` makes two, and unbuffered (PYTHONUNBUFFERED, torchrun) each is a write
    of its own, between which another process's line may come."""
    stream.write(line + "\n")
    stream.flush()


def text(value: object) -> Text:
    """A cell or a line for rich, in which nothing is markup or an emoji's name."""
    from rich.text import Text

    return Text(shown(value), overflow="fold")


def bundle_in(path: Path) -> Path:
    """The bundle of a run, or the directory itself."""
    bundle = path / "bundle"
    return bundle if bundle.is_dir() else path


def reporter(*, verbose: bool = False) -> Any:
    """Tells in the terminal what a job does."""
    from cli.console import ConsoleReporter

    return ConsoleReporter(verbose=verbose)


def table_console() -> Console:
    """For tables: as wide as the terminal, and as the table where another program reads it."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_NO_TERMINAL)


# Columns: names have 200 characters at most, and no table has 50 of them.
_NO_TERMINAL = 10_000
