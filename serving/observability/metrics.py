"""Prometheus metrics. BentoML's `/metrics` shows them, over all workers."""

from __future__ import annotations

from functools import cache
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from serving.core.errors import RequestError
from serving.core.requests import InferResponse
from serving.core.served_model import ServedModel
from serving.engine.providers import device_name

# From a decode of 2 ms to the default time limit of 30 s, each about 2.2 times the one before.
_SECONDS = (0.001, 0.0022, 0.005, 0.01, 0.022, 0.05, 0.1, 0.22, 0.5, 1, 2.2, 5, 10, 30)
_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The service's metrics. Names begin with `vgg19_`; docs/operate/monitor.md lists them.

    Made in a worker, where BentoML has set PROMETHEUS_MULTIPROC_DIR.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._requests = Counter(
            "vgg19_requests", "Requests by transport and outcome", ["transport", "outcome"],
            registry=registry,
        )  # fmt: skip
        self._request_seconds = Histogram(
            "vgg19_request_seconds", "From the request's head to its answer", ["transport"],
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._stage_seconds = Histogram(
            "vgg19_stage_seconds",
            "Decoding, waiting for a batch, inference (deprecated: also as run), and heat maps",
            ["stage"], buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._images = Counter(
            "vgg19_images", "Images by outcome: answered, or failed alone", ["outcome"],
            registry=registry,
        )  # fmt: skip
        self._accepted = Counter(
            "vgg19_answers", "Answered images by whether the answer is to be trusted",
            ["accepted"], registry=registry,
        )  # fmt: skip
        self._batch_images = Histogram(
            "vgg19_batch_images", "Images in one batch", buckets=_BATCH_SIZES,
            registry=registry,
        )  # fmt: skip
        self._reruns = Counter(
            "vgg19_rerun_images", "Images that ran again in higher precision",
            registry=registry,
        )  # fmt: skip
        self._queue = Gauge(
            "vgg19_queue_images", "Images that wait for a batch", ["version"],
            multiprocess_mode="livesum", registry=registry,
        )  # fmt: skip
        self._model = Gauge(
            "vgg19_model_info", "1 for the model that is current",
            ["version", "device", "provider"], multiprocess_mode="livemax", registry=registry,
        )  # fmt: skip
        self._reloads = Counter(
            "vgg19_reloads", "Changes of the current model by outcome", ["outcome"],
            registry=registry,
        )  # fmt: skip
        self._stale = Gauge(
            "vgg19_stale", "1 while a promoted model can't be loaded", multiprocess_mode="livemax",
            registry=registry,
        )  # fmt: skip
        self._background = Counter(
            "vgg19_background_failures", "Failures of what the service does beside requests",
            ["work"], registry=registry,
        )  # fmt: skip
        self._shadow_images = Counter(
            "vgg19_shadow_images", "Images of a version in production's shadow by outcome",
            ["version", "outcome"], registry=registry,
        )  # fmt: skip
        self._shadow_failed = Gauge(
            "vgg19_shadow_failed", "1 while a shadow is disabled because it failed", ["version"],
            multiprocess_mode="livemax", registry=registry,
        )  # fmt: skip
        self._canary_percent = Gauge(
            "vgg19_canary_percent", "Of the clients whom a canary answers", ["version"],
            multiprocess_mode="livemax", registry=registry,
        )  # fmt: skip
        self._canary_outcomes = Counter(
            "vgg19_canary_outcomes", "What production's and a canary's requests came to",
            ["version", "kind", "hit"], registry=registry,
        )  # fmt: skip
        for label in ("true", "false"):  # a share needs both, from the start
            self._accepted.labels(label)
        self._current: tuple[str, ...] = ()
        # `labels` checks and looks up what is the same for each request.
        self._labelled: Any = cache(lambda metric, *values: metric.labels(*values))

    def count_request(self, transport: str, outcome: str, seconds: float) -> None:
        self._labelled(self._requests, transport, outcome).inc()
        self._labelled(self._request_seconds, transport).observe(seconds)

    def count_answer(self, answer: InferResponse) -> None:
        rows = [row for row in answer.rows if not isinstance(row, RequestError)]
        accepted = sum(map(answer.model.accepts, rows))
        failed = len(answer.rows) - len(rows)
        counts = (
            (self._images, "answered", len(rows)),
            (self._images, "failed", failed),
            (self._accepted, "true", accepted),
            (self._accepted, "false", len(rows) - accepted),
        )
        for metric, label, count in counts:
            if count:  # each is a write into a mapped file, behind a lock
                self._labelled(metric, label).inc(count)
        for stage, seconds in answer.timings.stages_and_old_names().items():
            self._labelled(self._stage_seconds, stage).observe(seconds)

    def count_batch(self, size: int) -> None:
        self._batch_images.observe(size)

    def count_reruns(self, count: int) -> None:
        if count:  # once a batch, and mostly none
            self._reruns.inc(count)

    def show_queue(self, version: str, depth: int) -> None:
        self._labelled(self._queue, version).set(depth)

    def count_shadow(self, version: str, outcome: str, count: int = 1) -> None:
        """From any thread."""
        self._shadow_images.labels(version, outcome).inc(count)

    def show_shadow(self, version: str, *, failed: bool) -> None:
        """From any thread."""
        self._shadow_failed.labels(version).set(failed)

    def show_canary(self, version: str, percent: float) -> None:
        """0: it is over."""
        self._canary_percent.labels(version).set(percent)

    def count_canary(self, version: str, kind: str, hits: int, count: int) -> None:
        """`hits` of `count` outcomes were of the kind, see `models.monitoring.canary_tests`."""
        self._canary_outcomes.labels(version, kind, "true").inc(hits)
        self._canary_outcomes.labels(version, kind, "false").inc(count - hits)

    def count_background_failure(self, work: str) -> None:
        """`work`: by its name in the log; there are few. From any thread."""
        self._background.labels(work).inc()

    def count_reload(self, model: ServedModel | None) -> None:
        """Of the model that is current now; None: it couldn't be loaded."""
        self._reloads.labels("failed" if model is None else "succeeded").inc()
        self._stale.set(model is None)
        if model is None:
            return
        if self._current:
            self._model.labels(*self._current).set(0)
        self._current = (model.version, device_name(model.provider), model.provider)
        self._model.labels(*self._current).set(1)
