"""What the files of commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer


def say(message: str) -> None:
    typer.echo(message)


def bundle_in(path: Path) -> Path:
    """The bundle of a run, or the directory itself."""
    bundle = path / "bundle"
    return bundle if bundle.is_dir() else path


def reporter() -> Any:
    """Tells in the terminal what a job does."""
    from cli.console import ConsoleReporter

    return ConsoleReporter()
