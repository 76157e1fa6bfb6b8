"""Prometheus metrics of drift. Each worker shows what all of them know together."""

from __future__ import annotations

import math
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, Gauge


class DriftMetrics:
    """Made in a worker, as `serving.observability.metrics.Metrics` is; docs/drift.md lists them."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        def gauge(name: str, description: str, *labels: str) -> Gauge:
            # All workers show the same; of two, the one that looked last is right.
            return Gauge(
                f"vgg19_drift_{name}", description, labels,
                multiprocess_mode="livemostrecent", registry=registry,
            )  # fmt: skip

        of_both = ("feature", "window")
        self._psi = gauge("psi", "Population stability index against the reference", *of_both)
        self._noise = gauge(
            "psi_noise", "The index that sampling alone would give on average", *of_both
        )
        self._jensen_shannon = gauge(
            "jensen_shannon", "Jensen-Shannon distance from the reference, 0..1", *of_both
        )
        self._evidence = gauge(
            "evidence_ratio",
            "The most evidence of a change so far, by what an alarm needs",
            "feature",
        )
        self._alarm = gauge("alarm", "1 since the feature has raised an alarm", "feature")
        self._images = gauge("images", "Images in the window", "window")
        self._accepted = gauge("accepted_ratio", "Share of answers that are accepted", "window")
        self._counting = (self._evidence, self._alarm, self._images)
        self._shown: set[tuple[Gauge, tuple[str, ...]]] = set()

    def show(self, summary: dict[str, Any] | None) -> None:
        """What `models.monitoring.summary` says. What it knows nothing of any more, as after a day
        without an image, is over. None: nothing is known yet, and what is shown stays."""
        if summary is None:
            return
        before, self._shown = self._shown, set()
        for window, images in summary["windows"].items():
            self._set(self._images, images, window)
        for window, share in summary["accepted"].items():
            if share is not None:
                self._set(self._accepted, share, window)
        for feature in summary["features"]:
            name = feature["name"]
            if feature["raises_alarm"]:
                ratio = feature["most_evidence"] / feature["needed_evidence"]
                self._set(self._evidence, ratio, name)
                self._set(self._alarm, feature["alarm_at"] is not None, name)
            for window, found in feature["windows"].items():
                if found is not None:
                    self._set(self._psi, found["psi"], name, window)
                    self._set(self._noise, found["psi_noise"], name, window)
                    self._set(self._jensen_shannon, found["jensen_shannon"], name, window)
        self._end(before - self._shown)

    def clear(self) -> None:
        """Of a model that isn't watched, or of which nothing is known yet: what was shown of the
        one before it is over."""
        self._end(self._shown)
        self._shown.clear()

    def _end(self, series: set[tuple[Gauge, tuple[str, ...]]]) -> None:
        """A label can't be taken back from the files of several processes: 0, or not a number."""
        for gauge, labels in series:
            gauge.labels(*labels).set(0 if gauge in self._counting else math.nan)

    def _set(self, gauge: Gauge, value: float, *labels: str) -> None:
        gauge.labels(*labels).set(value)
        self._shown.add((gauge, labels))
