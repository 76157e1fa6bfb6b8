"""The commands that sign models and check signatures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli import panels
from cli.common import bundle_in, say

app = typer.Typer()

WhatArgument = Annotated[
    str, typer.Argument(metavar="BUNDLE|RUN|TAG", help="directory, tag, latest or production")
]


@app.command(rich_help_panel=panels.RELEASE)
def sign(
    what: WhatArgument,
    key: Annotated[Path, typer.Option(help="PEM file with the private key (ECDSA).")],
) -> None:
    """Sign a bundle, or a registered model, so that a service can check that it is yours.

    Example: `vgg19 sign runs/flowers --key private.pem`

    The passphrase of an encrypted key is taken from MODEL_SIGNING_PASSPHRASE.
    """
    from models.bundle.signature import Signer

    path = _bundle(what)
    Signer(key).sign(path)
    say(f"signed {path}; check it with: vgg19 verify {what} --key PUBLIC_KEY")


@app.command(rich_help_panel=panels.RELEASE)
def verify(
    what: WhatArgument,
    key: Annotated[Path, typer.Option(help="PEM file with the public key.")],
) -> None:
    """Check a signature, and every file against what was signed.

    Example: `vgg19 verify production --key public.pem`
    """
    from models.bundle.bundle import open_bundle
    from models.bundle.signature import Verifier

    path = _bundle(what)
    open_bundle(path, Verifier(key).check)
    say(f"{path} holds what was signed with the key of {key}")


def _bundle(what: str) -> Path:
    """Of a directory, if there is one of that name; else of a registered model."""
    from models.registry import store

    path = Path(what)
    return bundle_in(path) if path.is_dir() else store.stored_path(store.resolve(what))
