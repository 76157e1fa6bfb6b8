"""How often is a canary that is as good as production taken back, and how soon one that isn't?

    python -m benchmarks.monitoring.canary

Simulated: 5% of the requests are the canary's, everything is looked at after each 100 requests, the
limits are the default ones. `as good` keeps its limits for 100,000 requests; a false alarm is to
come in 1% of the runs at most. Each other row is worse in one way, and tells after how many
requests of the canary it was taken back: the median, and the largest of the runs.
"""

from __future__ import annotations

import argparse
import statistics
import sys

import numpy as np

from benchmarks.report import save
from models.monitoring.canary_tests import KINDS, Block, CanaryLimits, CanaryTally, Kind, harm
from models.monitoring.two_sample import Stream

LIMITS = CanaryLimits()
_PERCENT, _LOOK = 5, 100
_MOST = 100_000
# Of production: one request in 200 fails, one answer in ten is not accepted, ...
SHARES: dict[Kind, float] = {"failed": 0.005, "slow": 0.1, "refused": 0.1, "unfamiliar": 0.02}
CASES: dict[str, dict[Kind, float]] = {
    "as good": {},
    "worse, but within every limit": {
        "failed": 0.01, "slow": 0.15, "refused": 0.15, "unfamiliar": 0.05
    },
    "every request fails": {"failed": 1.0},
    "5% more fail": {"failed": 0.055},
    "half of the requests are slow": {"slow": 0.5},
    "30% of the answers are refused": {"refused": 0.3},
    "20% of the images are unfamiliar": {"unfamiliar": 0.2},
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="False alarms of a canary, and time to detect.")
    parser.add_argument("--runs", type=int, default=100)
    runs = parser.parse_args().runs
    rows = []
    for name, worse in CASES.items():
        found = [requests_until_return(worse, seed) for seed in range(runs)]
        returned = [requests for requests in found if requests is not None]
        rows.append(
            {
                "case": name,
                "taken_back": len(returned) / runs,
                "median_requests": statistics.median(returned) if returned else None,
                "most_requests": max(returned, default=None),
            }
        )
    command = " ".join(["python -m benchmarks.monitoring.canary", *sys.argv[1:]])
    save("canary", {"command": command, "runs": runs, "rows": rows})
    print("| canary | taken back | its requests until then, median | most |\n|---|--:|--:|--:|")
    for row in rows:
        print(" | ".join(["", *(str(value) for value in row.values()), ""]).strip())


def requests_until_return(worse: dict[Kind, float], seed: int) -> int | None:
    """Of the canary; None: it wasn't taken back."""
    rng = np.random.default_rng(seed)
    tally = CanaryTally.of("simulated", LIMITS)
    requests = 0
    for _ in range(_MOST // _LOOK):
        canary = int(rng.binomial(_LOOK, _PERCENT / 100))
        block = Block()
        for kind in KINDS:
            share = SHARES[kind]
            block.production[kind] = _stream(rng, _LOOK - canary, share)
            block.canary[kind] = _stream(rng, canary, worse.get(kind, share))
        tally.add(block)
        requests += canary
        if harm([tally], LIMITS):
            return requests
    return None


def _stream(rng: np.random.Generator, count: int, share: float) -> Stream:
    return Stream(count=count, hits=int(rng.binomial(count, share)))


if __name__ == "__main__":
    main()
