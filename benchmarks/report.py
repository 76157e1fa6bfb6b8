"""What a benchmark leaves in build/benchmarks: one JSON file, with the machine it ran on."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.machine import describe_machine

OUTPUT = Path("build/benchmarks")


def save(name: str, found: Mapping[str, object]) -> None:
    """Write `found` to NAME.json."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    content = json.dumps({"machine": describe_machine(), **found}, indent=2)
    (OUTPUT / f"{name}.json").write_text(content + "\n", encoding="utf-8")


def medians(rounds: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """Of each figure, by what was measured; the rounds of one have the same figures."""
    return {
        name: {figure: statistics.median(row[figure] for row in rows) for figure in rows[0]}
        for name, rows in rounds.items()
    }
