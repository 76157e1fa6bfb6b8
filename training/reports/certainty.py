"""How sure the numbers of a run are, as rows for its report and the model card."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from models.intervals import wilson

COLUMNS = ("judged", "images", "right", "95% interval")


def certainty_rows(metrics: dict[str, Any]) -> list[Sequence[str]]:
    """The held-out images, and where the head was fitted in closed form what cross-validation says
    of that: of few images the held-out ones say little.

    The fit's features are those of the network before it was trained, so no image was seen.
    """
    held_out = metrics["held_out"]
    images = held_out["images"]
    right = round(held_out["accuracy"] * images)
    rows = [("this model, on held-out images", right, images)]
    head = metrics.get("head")
    if head is not None:
        what = "the head fitted in closed form, leaving one out"
        rows.append((what, head["leave_one_out_right"], head["images"]))
        folds = head["folds"]
        if folds:
            right, images = (sum(fold[name] for fold in folds) for name in ("right", "images"))
            rows.append((f"the same, {len(folds)} folds{_spread(folds)}", right, images))
    return [_row(*row) for row in rows]


def _spread(folds: Sequence[dict[str, int]]) -> str:
    shares = [fold["right"] / fold["images"] for fold in folds if fold["images"]]
    return f" of {min(shares):.1%} to {max(shares):.1%}"


def _row(what: str, right: int, images: int) -> Sequence[str]:
    """With Wilson's interval (1927)."""
    low, high = wilson(right / images, images)
    return (what, f"{images:,}", f"{right / images:.1%}", f"{low:.1%} to {high:.1%}")
