"""The table of layers that is shown before training: what trains, from when, how fast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby


@dataclass(frozen=True)
class LayerRow:
    """`first_epoch` and `learning_rate` are None for a layer that stays frozen."""

    name: str
    parameters: int
    first_epoch: int | None
    learning_rate: float | None


def layer_table(rows: Sequence[LayerRow], *, folded: bool = False) -> str:
    """Lines of fixed width, and the totals.

    Args:
        folded: one line for neighbours of a part of the network (`features.`) that begin to train
            together, if there are more than three; with the lowest and the highest rate.
    """
    groups = _groups(rows) if folded else [[row] for row in rows]
    names = [_name(group) for group in groups]
    width = max(14, *(len(name) + 2 for name in names))
    lines = [f"{'layer':<{width}}{'parameters':>13}  {'trains':<13}{'learning rate':>15}"]
    lines += [
        f"{name:<{width}}{sum(row.parameters for row in group):>13,}  "
        f"{trains(group[0]):<13}{_rates(group):>15}"
        for name, group in zip(names, groups, strict=True)
    ]
    total = sum(row.parameters for row in rows)
    at_first = sum(row.parameters for row in rows if row.first_epoch == 1)
    in_the_end = sum(row.parameters for row in rows if row.first_epoch is not None)
    later = _later(at_first, in_the_end)
    lines.append(f"{'total':<{width}}{total:>13,}  {at_first:,} train{later}")
    return "\n".join(lines)


_FOLDED_FROM = 4  # rows


def _groups(rows: Sequence[LayerRow]) -> list[list[LayerRow]]:
    def together(row: LayerRow) -> tuple[str, int | None]:
        return row.name.rpartition(".")[0], row.first_epoch

    groups = [list(group) for _, group in groupby(rows, together)]
    return [
        part
        for group in groups
        for part in ([group] if len(group) >= _FOLDED_FROM else [[row] for row in group])
    ]


def _name(group: Sequence[LayerRow]) -> str:
    first, last = group[0].name, group[-1].name
    return first if first == last else f"{first} to {last.rpartition('.')[2]}"


def _rates(group: Sequence[LayerRow]) -> str:
    found = sorted(row.learning_rate or 0 for row in group)
    if found[0] == found[-1]:
        return rate(group[0])
    return f"{found[0]:.2g} - {found[-1]:.2g}"


def trains(row: LayerRow) -> str:
    if row.first_epoch is None:
        return "no"
    return "yes" if row.first_epoch == 1 else f"from epoch {row.first_epoch}"


def rate(row: LayerRow) -> str:
    return "-" if row.learning_rate is None else f"{row.learning_rate:.3g}"


def _later(at_first: int, in_the_end: int) -> str:
    return f", {in_the_end:,} in the end" if in_the_end > at_first else ""
