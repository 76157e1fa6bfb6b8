"""Charts of the benchmarks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from training.reports.plots import BLUE, ORANGE, PLOT_STYLE


def bar_chart(values: Mapping[str, float], *, title: str, unit: str, path: Path) -> None:
    """Horizontal bars with their numbers, ours in another colour."""
    names = list(values)
    with mpl.rc_context(PLOT_STYLE):
        figure = Figure(figsize=(7, 0.9 + 0.45 * len(names)))
        axes = figure.add_subplot()
        colours = [ORANGE if name.startswith("this project") else BLUE for name in names]
        bars = axes.barh(names, list(values.values()), color=colours)
        axes.bar_label(bars, fmt="%.1f", padding=3)
        axes.invert_yaxis()
        axes.set_axisbelow(True)
        axes.grid(visible=False, axis="y")
        axes.margins(x=0.12)
        axes.set(xlabel=unit, title=title)
        figure.savefig(path, bbox_inches="tight")
