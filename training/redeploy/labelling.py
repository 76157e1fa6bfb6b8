"""`vgg19 label`: a table and a page of captured images, for a person to fill in."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from models.captured import LABELS_FILE, CapturedImage
from models.text import shown
from training.reports.html_page import render

_PAGE_FILE = "label.html"
_COLUMNS = ("stem", "label", "predicted", "probability")


def write_labelling(images: Sequence[CapturedImage], output: Path) -> tuple[Path, Path]:
    """Write `labels.csv`, with the predictions and what is labelled already, and `label.html`.

    The images about which the model was least certain come first.

    Returns:
        the paths of the two.
    """
    ordered = sorted(images, key=_probability)
    output.mkdir(parents=True, exist_ok=True)
    table = output / LABELS_FILE
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        for image in ordered:
            writer.writerow(
                [image.stem, image.label or "", _predicted(image), f"{_probability(image):.3f}"]
            )
    page = output / _PAGE_FILE
    page.write_text(_page(ordered), encoding="utf-8")
    return table, page


def _predicted(image: CapturedImage) -> str:
    return str(image.record["predictions"][0]["label"])


def _probability(image: CapturedImage) -> float:
    return float(image.record["predictions"][0]["probability"])


def _page(images: Sequence[CapturedImage]) -> str:
    labels = sorted({p["label"] for image in images for p in image.record["predictions"]})
    chosen = {image.label for image in images if image.label}
    return render(
        "label.html",
        images=[
            {
                "path": image.path,
                "stem": image.stem,
                "label": image.label,
                "predicted": _predicted(image),
                "probability": _probability(image),
            }
            for image in images
        ],
        labels=labels,
        exact={shown(label): label for label in (*labels, *chosen) if shown(label) != label},
    )
