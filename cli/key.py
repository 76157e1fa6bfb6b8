"""`vgg19 key`: a key for clients, and what the service is told of it."""

from __future__ import annotations

import typer

from cli import panels
from cli.common import say

app = typer.Typer()


@app.command(rich_help_panel=panels.SERVE)
def key() -> None:
    """Make an API key or an admin key, and its SHA-256 for the service.

    Example: `vgg19 key`

    It is shown this once and kept nowhere.
    """
    from serving.admission.api_keys import digest_of, new_key

    made = new_key()
    say(f"key     {made}")
    say(f"sha256  {digest_of(made)}")
    say("the client sends the key, as 'Authorization: Bearer KEY'; it is not shown again")
    say("the service gets the sha256, in VGG19_API_KEYS or VGG19_ADMIN_KEY (or their ..._FILE)")
