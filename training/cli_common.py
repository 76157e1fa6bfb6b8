"""What the files of commands share."""

from __future__ import annotations

from typing import Any

import typer


def say(message: str) -> None:
    typer.echo(message)


def reporter() -> Any:
    """Tells in the terminal what a job does."""
    from training.console import ConsoleReporter

    return ConsoleReporter()
