"""What the service has answered since it started, over all workers: sums of its own metrics."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from dataclasses import dataclass, field

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

# Set by BentoML for the files of all workers; also of those that have ended.
_FILES = "PROMETHEUS_MULTIPROC_DIR"


@dataclass
class Traffic:
    """Counts since the service started.

    Args:
        outcomes: requests by what came of them.
        accepted: answered images by whether the answer is to be trusted.
        seconds: requests that took no longer than so many seconds, by that limit; cumulative.
    """

    outcomes: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    accepted: dict[bool, int] = field(default_factory=lambda: {True: 0, False: 0})
    seconds: dict[float, int] = field(default_factory=lambda: defaultdict(int))

    def quantile_s(self, share: float) -> float | None:
        """The time within which this share of requests was answered, as Prometheus'
        histogram_quantile finds it: straight between the limits, and the last limit where it lies
        above. None: there were none."""
        limits = sorted(self.seconds)
        total = self.seconds[limits[-1]] if limits else 0
        if not total:
            return None
        low, below = 0.0, 0
        for limit in limits:
            count = self.seconds[limit]
            if count >= share * total:
                if math.isinf(limit):
                    return low
                return low + (limit - low) * (share * total - below) / max(1, count - below)
            low, below = limit, count
        return low


def traffic(registry: CollectorRegistry = REGISTRY) -> Traffic:
    """Takes milliseconds, and some for each worker whose files are read.

    Args:
        registry: used where this is the only process.
    """
    if os.environ.get(_FILES):
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    found = Traffic()
    for metric in registry.collect():
        for sample in metric.samples:
            labels, value = sample.labels, int(sample.value) if sample.value == sample.value else 0
            if sample.name == "vgg19_requests_total":
                found.outcomes[labels["outcome"]] += value
            elif sample.name == "vgg19_answers_total":
                found.accepted[labels["accepted"] == "true"] += value
            elif sample.name == "vgg19_request_seconds_bucket":
                found.seconds[float(labels["le"])] += value
    return found
