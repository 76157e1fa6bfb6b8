"""What strategy auto has tried, as rows for the report and the model card."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

COLUMNS = ("trained", "validation images right", "error", "lower than before by (95% interval)", "")


def stage_rows(auto: dict[str, Any]) -> list[Sequence[str]]:
    """A row for each stage, in the order of `COLUMNS`.

    Args:
        auto: what `auto.json` holds.
    """
    return [
        (
            stage["name"],
            f"{stage['val_accuracy']:.1%} of {stage['val_images']:,}",
            f"{stage['val_error']:.3f}",
            _gain(stage["gain"]),
            "kept" if number == auto["chosen"] else "",
        )
        for number, stage in enumerate(auto["stages"])
    ]


def _gain(gain: Sequence[float | None] | None) -> str:
    if gain is None:
        return ""
    error, low, high = gain
    interval = "" if low is None else f" ({low:.3f} to {high:.3f})"
    return f"{error:.3f}{interval}"
