"""The `vgg19` command. Each command imports what it needs, so that --help is quick and the
serving commands work where PyTorch isn't installed."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from importlib.metadata import version
from typing import Annotated

import typer

from cli import (
    cache,
    canary,
    drift,
    events,
    inventory,
    key,
    panels,
    probe,
    redeploy,
    review,
    run,
    serve,
    shadow,
    sign,
    store,
    train,
)
from cli.common import say, say_error
from models.errors import UserError
from models.paths import expand_home
from models.text import escape_unencodable
from serving import environment

app = typer.Typer(
    name="vgg19",
    help="Fine-tune VGG-19 on your own images, export it to ONNX and serve it.",
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)

# Typer exports this one and hides the class below it (its own copy of click's).
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]

app.add_typer(train.app)
app.add_typer(run.app)
app.add_typer(serve.app)
app.add_typer(store.app)
app.add_typer(redeploy.app)
app.add_typer(inventory.app, name="models", rich_help_panel=panels.RELEASE)
app.add_typer(shadow.app)
app.add_typer(canary.app)
app.add_typer(sign.app)
app.add_typer(key.app)
app.add_typer(probe.app)
app.add_typer(review.app)
app.add_typer(drift.app)
app.add_typer(cache.app, name="cache", rich_help_panel=panels.TRAIN)
app.add_typer(events.app, name="events", rich_help_panel=panels.PRODUCTION)


def main() -> None:
    """Entry point: a user's mistake is one line on stderr and exit code 1 (usage: 2)."""
    # Gradients and activations are freed and allocated again with every step; in huge pages a step
    # on the CPU takes 10-15% less (PyTorch reads this when it is imported; Linux only).
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    escape_unencodable()
    environment.prepare()  # before anything goes to another directory
    arguments = [_at_home(argument) for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup leaves it
            signal.signal(number, _end)
    try:
        code = app(arguments or ["--help"], prog_name="vgg19", standalone_mode=False)
    except (UserError, _UsageError, OSError, Ended) as error:
        if debug:
            raise
        code = getattr(error, "exit_code", 1)
        with suppress(OSError):  # of a terminal that was closed
            code = _report(error)
        sys.exit(code)
    sys.exit(code or 0)


def _at_home(argument: str) -> str:
    """With ~ replaced where the shell leaves it: in --data=~/images, and in quotes. Nothing but
    paths begins with it."""
    name, equals, value = argument.partition("=")
    if argument.startswith("--") and value.startswith("~"):
        return name + equals + expand_home(value)
    return expand_home(argument)


def _report(error: BaseException) -> int:
    """Print one line about what went wrong; return the exit code."""
    if isinstance(error, Ended):
        say_error("interrupted")
        return error.exit_code
    if isinstance(error, _UsageError):
        message = " ".join(error.format_message().split())  # type: ignore[attr-defined]
        say_error(f"error: {message} (see vgg19 COMMAND --help)")
        return 2
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        say_error(f"error: {where}{error.strerror or error}")
        return 1
    say_error(f"error: {error}")
    return getattr(error, "exit_code", 1)


class Ended(BaseException):
    """A signal asked the command to end. Unwinds, so that nothing half-written stays."""

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.exit_code = 128 + number


def _end(number: int, _: object) -> None:
    raise Ended(number)


def _show_version(wanted: bool) -> None:
    if wanted:
        say(version("vgg19-finetune"))
        raise typer.Exit


@app.callback()
def _global_options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, help="Show the version.")
    ] = False,
) -> None:
    """Declared here for --help; `main` takes --debug wherever it stands."""


if __name__ == "__main__":
    main()
