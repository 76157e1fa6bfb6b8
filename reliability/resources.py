"""What a service holds, sample by sample, and whether it grows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil

_WARM_UP = 0.2  # share of the samples, at the beginning, in which caches and pools fill


@dataclass(frozen=True)
class Sample:
    """Of all processes of a service. at_s: by the monotonic clock."""

    at_s: float
    memory_mb: float
    descriptors: int
    threads: int


# What may come over a whole run beside what was there after the warm-up.
LIMITS = {"memory_mb": 15.0, "descriptors": 3.0, "threads": 2.0}


def sample(pid: int) -> Sample:
    """memory_mb: resident, what processes share counted once."""
    root = psutil.Process(pid)
    processes = [root, *root.children(recursive=True)]
    return Sample(
        at_s=time.monotonic(),
        memory_mb=sum(process.memory_full_info().pss for process in processes) / 1e6,
        descriptors=sum(process.num_fds() for process in processes),
        threads=sum(process.num_threads() for process in processes),
    )


def growth(samples: Sequence[Sample]) -> dict[str, dict[str, float]]:
    """For each figure of `LIMITS`: first, last and largest value after the warm-up, the slope of a
    straight line through all (an hour), and what that line rises by over the run.

    Raises:
        ValueError: fewer than 10 samples.
    """
    if len(samples) < 10:
        raise ValueError(f"{len(samples)} samples say nothing of growth, 10 do; let it run longer")
    settled = samples[int(_WARM_UP * len(samples)) :]
    hours = np.array([one.at_s for one in settled]) / 3600
    found = {}
    for figure in LIMITS:
        values = np.array([float(getattr(one, figure)) for one in settled])
        slope = float(np.polyfit(hours - hours[0], values, 1)[0])
        found[figure] = {
            "first": round(float(values[0]), 1),
            "last": round(float(values[-1]), 1),
            "largest": round(float(values.max()), 1),
            "per_hour": round(slope, 2),
            "over_the_run": round(slope * float(hours[-1] - hours[0]), 2),
        }
    return found


def too_much(found: dict[str, dict[str, float]]) -> dict[str, Any]:
    """What grows by more than its limit."""
    return {
        figure: values
        for figure, values in found.items()
        if values["over_the_run"] > LIMITS[figure]
    }
