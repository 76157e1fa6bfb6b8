"""`vgg19 cache`: the feature cache, of frozen layers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.common import say

app = typer.Typer(no_args_is_help=True, help="List or clear the cached features of frozen layers.")
CacheDirOption = Annotated[
    Path | None, typer.Option("--cache-dir", help="As in the configuration of the run.")
]


@app.command("list")
def list_cache(cache_dir: CacheDirOption = None) -> None:
    """Show what is cached, the last used first.

    Example: `vgg19 cache list`
    """
    from cli.cache_table import print_cache
    from training.features.cache import default_root

    print_cache(cache_dir or default_root())


@app.command("clear")
def clear_cache(
    ids: Annotated[
        list[str] | None, typer.Argument(help="as in the list, or their beginnings; default: all")
    ] = None,
    cache_dir: CacheDirOption = None,
) -> None:
    """Remove cached features. A run that is using them goes on undisturbed.

    Example: `vgg19 cache clear 1f3a`
    """
    from training.features.cache import default_root, find_entries, remove

    root = cache_dir or default_root()
    entries = find_entries(root, ids or [""])
    for entry in entries:
        remove(entry)
    size = sum(entry.size_bytes for entry in entries)
    say(f"removed {len(entries)} from {root}, {size / 1e6:,.0f} MB")
