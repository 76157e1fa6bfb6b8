"""The plots of a report."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from models.text import shown

# A confusion matrix with more classes than this shows no numbers in its cells.
_MAX_NUMBERED_CLASSES = 20

BLUE, ORANGE, _GREY = "#3b6fb6", "#d9812e", "#8a8f98"
PLOT_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e8eaed",
    "axes.edgecolor": _GREY,
    "figure.facecolor": "white",
    "text.usetex": False,  # LaTeX would take names for commands
    "savefig.dpi": 150,
}


def curves(history: Sequence[dict[str, Any]], best_epoch: int) -> Figure:
    """Loss and accuracy over the epochs, with the saved epoch marked."""
    figure = Figure(figsize=(10, 3.4))
    epochs = [row["epoch"] for row in history]
    for place, (kind, unit) in enumerate((("loss", "nats"), ("accuracy", "%")), start=1):
        axes = figure.add_subplot(1, 2, place)
        scale = 100 if kind == "accuracy" else 1
        for split, colour in (("train", BLUE), ("val", ORANGE)):
            values = [row[f"{split}_{kind}"] * scale for row in history]
            axes.plot(epochs, values, color=colour, marker="o", markersize=4, label=split)
        axes.axvline(best_epoch, color=_GREY, linestyle=":", label="saved")
        axes.set(xlabel="epoch", ylabel=f"{kind} ({unit})")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False)
    return figure


def learning_rate(history: Sequence[dict[str, Any]]) -> Figure:
    """The head's learning rate at the end of each epoch."""
    figure = Figure(figsize=(4.8, 3.2))
    axes = figure.add_subplot()
    epochs = [row["epoch"] for row in history]
    axes.plot(epochs, [row["learning_rate"] for row in history], color=BLUE, marker="o")
    axes.set(xlabel="epoch", ylabel="learning rate of the head")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def confusion(counts: NDArray[np.int64], labels: Sequence[str]) -> Figure:
    """Of int64[C,C]; rows: true class, shaded by the share of the row; columns: predicted class."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = min(max(3.4, 0.42 * len(labels) + 1.6), 12)
    figure = Figure(figsize=(size, size))
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.grid(False)
    step = max(1, len(labels) // 40)
    ticks = range(0, len(labels), step)
    names = [_short(shown(labels[i]), 14) for i in ticks]
    # Not as mathtext: a label may hold dollars.
    axes.set_xticks(ticks, names, rotation=60, ha="right", rotation_mode="anchor", parse_math=False)
    axes.set_yticks(ticks, names, parse_math=False)
    axes.set(xlabel="predicted", ylabel="true")
    if len(labels) <= _MAX_NUMBERED_CLASSES:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if shares[row, column] > 0.5 else "#1f2328"
                axes.text(column, row, str(count), ha="center", va="center", color=colour)
    return figure


def reliability_diagram(rows: Sequence[dict[str, float]]) -> Figure:
    """Accuracy against confidence; on the diagonal, probabilities mean what they say."""
    figure = Figure(figsize=(4.8, 3.2))
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=_GREY, linestyle=":")
    largest = max(row["images"] for row in rows)
    axes.scatter(
        [row["confidence"] for row in rows],
        [row["accuracy"] for row in rows],
        s=[30 + 220 * row["images"] / largest for row in rows],
        color=BLUE,
        alpha=0.8,
        zorder=3,
    )
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1.03), ylim=(-0.03, 1.06))
    return figure


def depth_scores(
    names: Sequence[str],
    accuracies: Sequence[float],
    intervals: Sequence[tuple[float, float]],
    majority: float,
) -> Figure:
    """Accuracy (0..1) at each depth, with its interval; dotted: the share of the largest class."""
    figure = Figure(figsize=(5.6, 3.2))
    axes = figure.add_subplot()
    percent = 100 * np.array(accuracies)
    low, high = 100 * np.array(intervals).T
    axes.errorbar(
        range(len(names)), percent, yerr=(percent - low, high - percent),
        color=BLUE, marker="o", linestyle="", capsize=4,
    )  # fmt: skip
    margin = max(1.0, 0.1 * float(high.max() - low.min()))
    axes.set_ylim(max(0.0, float(low.min()) - margin), min(101.0, float(high.max()) + margin))
    axes.axhline(100 * majority, color=_GREY, linestyle=":")  # mostly far below, and not seen
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right", rotation_mode="anchor")
    axes.set(ylabel="accuracy (%)")
    return figure


def learning_curve(
    images: Sequence[int], accuracies: Sequence[float], twice: float | None
) -> Figure:
    """Accuracy (0..1) against the number of images; dashed: what twice as many would bring."""
    figure = Figure(figsize=(4.8, 3.2))
    axes = figure.add_subplot()
    percent = [100 * accuracy for accuracy in accuracies]
    axes.plot(images, percent, color=BLUE, marker="o")
    ticks = list(images)
    if twice is not None:
        ticks.append(2 * images[-1])
        axes.plot(ticks[-2:], [percent[-1], 100 * twice], color=ORANGE, marker="o", linestyle="--")
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.set_xticks(ticks, [f"{count:,}" for count in ticks])
    axes.set(xlabel="training images", ylabel="accuracy (%)")
    return figure


def save_plot(figure: Figure, to: Path | IO[bytes]) -> None:
    """Write a PNG; a name in a script that no font here has is shown as boxes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure.savefig(to, bbox_inches="tight")


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
