"""The measurements of the serving benchmark: medians, ratios and a table."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

_FIGURES = ("requests_per_second", "p50_ms", "p95_ms", "p99_ms", "cpu_ms_per_request", "pss_mb")


_COLUMNS = (
    *("requests/s", "p50 ms", "p95 ms", "p99 ms", "CPU ms", "memory MB"),
    *("errors", "rounds", "ours/this"),
)
# Where processes that don't belong to a measurement used more cores than this, it says more of them
# than of the server.
_DISTURBED_CORES = 0.25


@dataclass(frozen=True)
class Measurement:
    """One server under one scenario, once. CPU time and memory are those of all its processes."""

    server: str
    model: str
    scenario: str
    round: int
    requests_per_second: float
    p50_ms: float = 0.0
    p95_ms: float = 0.0
    p99_ms: float = 0.0
    cpu_ms_per_request: float = 0.0
    pss_mb: float = 0.0
    errors: int = 0
    second_runs: float = 0.0  # of images, by their number
    other_cores: float = 0.0  # used meanwhile by neither server nor clients: should be near 0


@dataclass(frozen=True)
class Row:
    """Medians of the quiet rounds, the sum of all errors, and ours divided by this server's, a
    median too. rounds: how many were quiet; where none was, all count."""

    server: str
    model: str
    scenario: str
    medians: dict[str, float]
    rounds: int
    errors: int
    ours_by_this: dict[str, float]


@dataclass(frozen=True)
class Failure:
    """A server that gave no number, and why."""

    server: str
    model: str
    scenario: str
    round: int
    reason: str


def summarise(
    measurements: Sequence[Measurement], scenarios: Sequence[str], servers: Sequence[str]
) -> list[Row]:
    """Rows in the order of `scenarios`, then of `servers`, of which the first is ours."""

    def place(m: Measurement) -> tuple[int, int]:
        return scenarios.index(m.scenario), servers.index(m.server)

    kept = {
        key: _quiet(list(group)) for key, group in groupby(sorted(measurements, key=place), place)
    }
    rows = []
    for (scenario, _), runs in kept.items():
        ours = {m.round: m for m in kept.get((scenario, 0), [])}
        pairs = [(ours[m.round], m) for m in runs if m.round in ours]
        all_runs = [m for m in measurements if place(m) == place(runs[0])]
        rows.append(
            Row(
                server=runs[0].server,
                model=runs[0].model,
                scenario=runs[0].scenario,
                medians={f: statistics.median(getattr(m, f) for m in runs) for f in _FIGURES},
                rounds=len(runs),
                errors=sum(m.errors for m in all_runs),
                ours_by_this=dict(_ratios(pairs)),
            )
        )
    return rows


def _quiet(runs: list[Measurement]) -> list[Measurement]:
    return [m for m in runs if m.other_cores <= _DISTURBED_CORES] or runs


def _ratios(pairs: Sequence[tuple[Measurement, Measurement]]) -> Iterator[tuple[str, float]]:
    for figure in _FIGURES:
        ratios = [
            getattr(mine, figure) / getattr(other, figure)
            for mine, other in pairs
            if getattr(other, figure)
        ]
        if ratios:
            yield figure, statistics.median(ratios)


def markdown(rows: Sequence[Row], failures: Sequence[Failure]) -> str:
    lines = []
    for scenario, group in groupby(rows, key=lambda row: (row.model, row.scenario)):
        lines += [
            "",
            f"**{scenario[0]} model, {scenario[1]}**",
            "",
            f"| | {' | '.join(_COLUMNS)} |",
            "|---" + "|--:" * len(_COLUMNS) + "|",
        ]
        for row in group:
            cells = [f"{row.medians[figure]:.1f}" for figure in _FIGURES]
            cells[4] = f"{row.medians['cpu_ms_per_request']:.2f}"
            ratio = row.ours_by_this.get("requests_per_second")
            cells += [str(row.errors), str(row.rounds), "" if ratio is None else f"{ratio:.2f}"]
            lines.append(f"| {row.server} | " + " | ".join(cells) + " |")
    for failure in failures:
        reason = failure.reason.splitlines()[0]
        lines += ["", f"{failure.server} failed in '{failure.scenario}': {reason}"]
    return "\n".join(lines)
