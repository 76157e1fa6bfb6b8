"""What `vgg19 cache list` prints."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cli.common import table_console, text
from training.features.cache import Entry, list_entries


def print_cache(root: Path, console: Console | None = None) -> None:
    """A row for each entry, and what they take together."""
    out = console or table_console()
    entries = list_entries(root)
    table = Table("id", "before", "images", "augmented", "type", "done", "MB", "used", box=None)
    for entry in entries:
        table.add_row(*map(text, _row(entry)))
    if entries:
        out.print(table)
    total = sum(entry.size_bytes for entry in entries)
    out.print(text(f"{len(entries)} in {root}, {total / 1e6:,.0f} MB"), soft_wrap=True)


def _row(entry: Entry) -> list[str]:
    augmentation = entry.ingredients["augmentation"]
    used = datetime.fromtimestamp(entry.last_used, UTC)
    return [
        entry.path.name[:8],
        entry.ingredients["before"],
        f"{entry.count:,}",
        f"view {augmentation['view'] + 1}" if augmentation else "no",
        entry.dtype,
        f"{entry.progress:.0%}",
        f"{entry.size_bytes / 1e6:,.1f}",
        f"{used:%Y-%m-%d %H:%M}",
    ]
