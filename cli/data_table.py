"""`vgg19 check-data` in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from cli.common import table_console, text
from training.data.check_data import DataReport
from training.data.recommend import recommendations

_SHOWN = 10


def print_report(report: DataReport, console: Console | None = None) -> None:
    """A table of counts, then what is wrong, the first ten of each kind."""
    out = console or table_console()
    labels = sorted({label for counts in report.counts.values() for label in counts})
    table = Table(box=None)
    table.add_column("class")
    for split in report.counts:
        table.add_column(split, justify="right")
    for label in labels:
        table.add_row(
            text(label), *(str(counts.get(label, 0)) for counts in report.counts.values())
        )
    out.print(table)
    sizes = ", ".join(f"{name} {w} x {h}" for name, (w, h) in report.sizes.items())
    modes = ", ".join(f"{count} {mode}" for mode, count in report.modes.items())
    out.print(f"{report.images} images; largest class {report.imbalance:.1f} times the smallest")
    out.print(f"sizes: {sizes}; modes: {modes}; turned by EXIF: {report.exif_turned}")
    out.print(f"lose more than half of their area to the centre crop: {report.cropped}")
    if report.side_files:
        out.print(f"side files, no images: {sum(report.side_files.values())}")
    if report.judged_nowhere:
        names = ", ".join(report.judged_nowhere[:_SHOWN])
        line = text(f"classes judged nowhere, with too few images: {names}")
        out.print(line, style="yellow")
    _list(out, "left out", [[f"{file.path}: {file.reason}"] for file in report.left_out])
    _list(out, "unreadable", [[f"{file.path}: {file.reason}"] for file in report.unreadable])
    _list(out, "exact copies", report.exact_duplicates)
    _list(out, "near copies", report.near_duplicates)
    _list(out, "copies with different labels", report.conflicting_labels)
    leaks = "LEAKS: copies in different splits" if report.leaks else "copies in different splits"
    _list(out, leaks, report.leaks)
    for sentence in recommendations(report.cropped, report.totals()):
        out.print(text(sentence), style="yellow", soft_wrap=True)


def _list(out: Console, title: str, groups: Sequence[Sequence[str]]) -> None:
    out.print(f"{title}: {len(groups)}")
    for group in groups[:_SHOWN]:
        out.print(text(f"  {'  =  '.join(group)}"), soft_wrap=True)
    if len(groups) > _SHOWN:
        out.print(f"  and {len(groups) - _SHOWN} more (all of them with --output)")
