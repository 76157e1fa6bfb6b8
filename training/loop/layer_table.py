"""The table of layers that is shown before training: what trains, from when, how fast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class LayerRow:
    """`first_epoch` and `learning_rate` are None for a layer that stays frozen."""

    name: str
    parameters: int
    first_epoch: int | None
    learning_rate: float | None


def layer_table(rows: Sequence[LayerRow]) -> str:
    """Lines of fixed width, one for each layer, and the totals."""
    lines = [f"{'layer':<14}{'parameters':>13}  {'trains':<13}{'learning rate':>13}"]
    lines += [
        f"{row.name:<14}{row.parameters:>13,}  {trains(row):<13}{rate(row):>13}" for row in rows
    ]
    total = sum(row.parameters for row in rows)
    at_first = sum(row.parameters for row in rows if row.first_epoch == 1)
    in_the_end = sum(row.parameters for row in rows if row.first_epoch is not None)
    lines.append(f"{'total':<14}{total:>13,}  {at_first:,} train{_later(at_first, in_the_end)}")
    return "\n".join(lines)


def trains(row: LayerRow) -> str:
    if row.first_epoch is None:
        return "no"
    return "yes" if row.first_epoch == 1 else f"from epoch {row.first_epoch}"


def rate(row: LayerRow) -> str:
    return "-" if row.learning_rate is None else f"{row.learning_rate:.3g}"


def _later(at_first: int, in_the_end: int) -> str:
    return f", {in_the_end:,} in the end" if in_the_end > at_first else ""
