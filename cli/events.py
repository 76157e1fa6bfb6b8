"""`vgg19 events`: what waits for the receiver of events, and its key."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.common import say, say_error

if TYPE_CHECKING:
    from models.events.config import EventsConfig

app = typer.Typer(invoke_without_command=True)

# For a command that has done its work already; a receiver answers in milliseconds, or is away.
_AT_THE_END_S = 5.0
# For the command that is there to deliver.
_SEND_S = 60.0


def deliver_events() -> None:
    """Tell the receiver what this command has done; what can't be delivered now waits, and the
    user reads why. Never fails: what the command was for is done."""
    from models.errors import UserError
    from models.events.announcing import announce_promotions
    from models.events.config import from_environment
    from models.events.sender import deliver

    try:
        config = from_environment()
        if config is None:
            return
        announce_promotions()
        problem = deliver(config, _AT_THE_END_S)
    except (UserError, OSError) as error:
        problem = str(error)
    if problem:
        say_error(f"warning: an event waits: {problem}")


@app.callback()
def events(context: typer.Context) -> None:
    """Show which events wait for their receiver (VGG19_EVENTS_URL).

    Example: `vgg19 events`
    """
    from models.events.outbox import Outbox

    if context.invoked_subcommand is not None:
        return
    config = _configured()
    outbox = Outbox(config.queue)
    say(f"receiver  {config.receiver}")
    say(f"queue     {config.queue}: {len(outbox.waiting())} wait, {outbox.dropped} were dropped")


@app.command()
def send() -> None:
    """Deliver what waits; a running service does so by itself.

    Example: `vgg19 events send`
    """
    from models.events.announcing import announce_promotions

    announce_promotions()
    _deliver(_configured())


@app.command()
def test() -> None:
    """Send an event of the type vgg19.events.test.

    Example: `vgg19 events test`
    """
    from models.events import emit
    from models.events.config import EventsError, check

    config = _configured()
    check(config)  # what `emit` only logs
    if not emit("events.test", "vgg19", {"message": "events arrive"}):
        raise EventsError(f"the event can't wait in {config.queue}: the line above says why")
    _deliver(config)


@app.command()
def key(
    file: Annotated[Path, typer.Argument(help="is written; for VGG19_EVENTS_KEY_FILE")],
) -> None:
    """Write a new key, with which events are signed and their receiver checks them.

    Example: `vgg19 events key events.key`
    """
    from models.errors import UserError
    from models.events.config import new_key

    try:
        with file.open("x", encoding="ascii") as opened:
            file.chmod(0o600)
            opened.write(new_key() + "\n")
    except FileExistsError:
        raise UserError(f"{file} is there already; name another file") from None
    say(f"wrote {file}: the receiver needs the same; next: vgg19 events test")


def _configured() -> EventsConfig:
    from models.events.config import URL, EventsError, from_environment

    config = from_environment()
    if config is None:
        raise EventsError(f"{URL} is not set, so no events are sent")
    return config


def _deliver(config: EventsConfig) -> None:
    from models.events.outbox import Outbox
    from models.events.sender import DeliveryError, deliver

    problem = deliver(config, _SEND_S)
    if problem:
        raise DeliveryError(problem)
    left = len(Outbox(config.queue).waiting())
    say(f"{left} events wait; a running service delivers them" if left else "delivered")
