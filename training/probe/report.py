"""A probe as JSON, and as a page."""

from __future__ import annotations

import io
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from models.files import json_text
from models.linear.predictions import MARGIN, Predictions, doubt
from training.probe.judge import DepthScore, at_twice
from training.probe.probe import SHOWN_SUSPECTS, Probe
from training.probe.suspects import Suspect
from training.reports.html_page import render
from training.reports.plots import PLOT_STYLE, depth_scores, learning_curve, save_plot

HARDEST_PAIRS = 5


def expected_at_twice(probe: Probe) -> float | None:
    """The accuracy that twice as many images would bring; None where that can't be told."""
    return at_twice(probe.curve, probe.best.predictions.accuracy)


def hardest_pairs(probe: Probe) -> list[tuple[str, str, int, int]]:
    """Two classes, how many of their images got the other's label, and how many there are; at the
    best depth."""
    predictions, labels = probe.best.predictions, probe.data.labels
    counts = probe.data.counts()["train"]
    return [
        (labels[one], labels[other], confused, counts[labels[one]] + counts[labels[other]])
        for one, other, confused in predictions.hardest_pairs(HARDEST_PAIRS)
    ]


def as_json(probe: Probe) -> dict[str, Any]:
    return {
        "data": str(probe.config.data),
        "weights": probe.config.weights,
        "image_size": probe.config.image_size,
        "images": len(probe.best.predictions.targets),
        "classes": len(probe.data.labels),
        "majority": probe.majority,
        "best": probe.best.depth.name,
        "depths": [_depth(score) for score in probe.scores],
        "learning_curve": [asdict(point) for point in probe.curve],
        "at_twice": expected_at_twice(probe),
        "hardest_pairs": [
            {"classes": [one, other], "confused": confused, "images": images}
            for one, other, confused, images in hardest_pairs(probe)
        ],
        "recommendation": {"reason": probe.recommendation.reason, "command": probe.command},
        "suspects": {"margin_above": MARGIN, "files": [_suspect(one) for one in probe.suspects]},
        "seconds": probe.seconds,
    }


def write_json(probe: Probe, path: Path) -> None:
    path.write_text(json_text(as_json(probe)), encoding="utf-8")


def write_page(probe: Probe, path: Path) -> None:
    """One self-contained HTML file."""
    page = render(
        "probe.html",
        network=probe.title,
        config=probe.config,
        data=probe.data,
        images=len(probe.best.predictions.targets),
        best=probe.best.depth.name,
        recommendation=probe.recommendation.reason,
        command=probe.command,
        plots=_plots(probe),
        twice=expected_at_twice(probe),
        depth_rows=[_depth_row(score) for score in probe.scores],
        pair_rows=[
            (f"{one} / {other}", f"{confused:,}", f"{images:,}")
            for one, other, confused, images in hardest_pairs(probe)
        ],
        suspects=probe.suspects[:SHOWN_SUSPECTS],
        more_suspects=len(probe.suspects[SHOWN_SUSPECTS:]),
        margin=MARGIN,
        doubt=doubt(probe.best.predictions),
    )
    path.write_text(page, encoding="utf-8")


def _plots(probe: Probe) -> dict[str, bytes]:
    found = [score.predictions for score in probe.scores]
    points = [(point.images, point.accuracy) for point in probe.curve]
    points.append((len(probe.best.predictions.targets), probe.best.predictions.accuracy))
    images, accuracies = zip(*points, strict=True)
    with mpl.rc_context(PLOT_STYLE):
        return {
            "depths": _png(
                depth_scores(
                    [score.depth.name for score in probe.scores],
                    [predictions.accuracy for predictions in found],
                    [predictions.interval for predictions in found],
                    probe.majority,
                )
            ),
            "curve": _png(learning_curve(images, accuracies, expected_at_twice(probe))),
        }


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    save_plot(figure, buffer)
    return buffer.getvalue()


def _depth_row(score: DepthScore) -> tuple[str, ...]:
    predictions = score.predictions
    low, high = predictions.interval
    return (
        score.depth.name,
        f"{score.depth.values:,}",
        f"{predictions.error:.3f}",
        f"{predictions.accuracy:.1%}",
        f"{low:.1%} to {high:.1%}",
        f"{predictions.balanced_accuracy:.1%}",
    )


def _depth(score: DepthScore) -> dict[str, Any]:
    predictions: Predictions = score.predictions
    return {
        "name": score.depth.name,
        "values": score.depth.values,
        "error": predictions.error,
        "accuracy": predictions.accuracy,
        "interval": list(predictions.interval),
        "balanced_accuracy": predictions.balanced_accuracy,
        "seconds": score.seconds,
    }


def _suspect(suspect: Suspect) -> dict[str, Any]:
    return {
        "file": suspect.file,
        "label": suspect.label,
        "suggested": suspect.suggested,
        "margin": suspect.margin,
        "nearest": [{"file": one.file, "label": one.label} for one in suspect.nearest],
    }
