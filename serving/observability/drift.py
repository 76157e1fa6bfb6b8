"""Counts what a worker answers, and compares it with the model's reference, together with the other
workers.

Promise: a request costs some microseconds in the event loop; everything else happens in a thread,
in constant memory; and only answers of the current model count.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from socket import gethostname
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.events import emit
from models.monitoring.features import Layout, measured
from models.monitoring.reference import Reference
from models.monitoring.summary import summarise
from models.monitoring.watch import Rules, Watch
from serving.core.errors import RequestError
from serving.core.requests import InferResponse
from serving.core.served_model import ServedModel
from serving.core.workers import Workers
from serving.observability.drift_metrics import DriftMetrics
from serving.observability.drift_store import DriftStore

logger = logging.getLogger(__name__)

# Rows that wait for being put into bins: of ten numbers each, and 0.1 ms for all of them.
_ROWS = 256
# Without images only time passes, which the window of a day shows.
_LEAST_OFTEN_S = 60.0

Json = dict[str, Any]


class Counter:
    """The histogram of one model's answers. One event loop's."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._rows: list[tuple[float, ...]] = []
        self._counts = np.zeros(layout.size, np.int64)
        self._images = 0

    def add(self, answer: InferResponse) -> None:
        acceptance = answer.model.acceptance
        outputs = (row for row in answer.rows if not isinstance(row, RequestError))
        for output, measures in zip(outputs, answer.measures, strict=True):
            label = output.best()
            confidence = float(output.probabilities[label])
            accepted = acceptance is None or acceptance.accepts(confidence, output.distance)
            self._rows.append(
                measured(measures, confidence, output.distance, label, accepted=accepted)
            )
        if len(self._rows) >= _ROWS:
            self._count()

    def take(self) -> tuple[NDArray[np.int64], int]:
        """Histogram int64[L] and images since the last call."""
        if self._rows:
            self._count()
        taken = self._counts, self._images
        self._counts, self._images = np.zeros(self._layout.size, np.int64), 0
        return taken

    def put_back(self, counts: NDArray[np.int64], images: int) -> None:
        """What was taken and couldn't be handed over."""
        self._counts += counts
        self._images += images

    def _count(self) -> None:
        self._counts += self._layout.count(np.array(self._rows))
        self._images += len(self._rows)
        self._rows.clear()


@dataclass(frozen=True)
class _Watched:
    """What is kept of a model: itself it would stay in memory after it was dropped, until the next
    look."""

    name: str
    version: str
    labels: tuple[str, ...]
    reference: Reference | None

    @classmethod
    def of(cls, model: ServedModel) -> _Watched:
        return cls(model.name, model.version, model.spec.labels, model.reference)


class DriftMonitor:
    """Watches the current model, in one worker.

    Args:
        folder: of all workers; has a `DriftStore` for each version.
        window: images of the window by count.
        now: seconds since 1970.
    """

    def __init__(
        self,
        folder: Path,
        metrics: DriftMetrics,
        window: int,
        rules: Rules,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder
        self._metrics = metrics
        self._window = window
        self._rules = rules
        self._now = now
        self._thread = Workers(1, "drift")
        self._model: _Watched | None = None
        self._counter: Counter | None = None
        self._summary: Json | None = None

    def record(self, answer: InferResponse) -> None:
        """Count an answer, in the event loop."""
        if (
            self._counter is not None
            and self._model is not None
            and answer.model.version == self._model.version
        ):
            self._counter.add(answer)

    def adopt(self, current: ServedModel) -> None:
        """Count the answers of this model from now on, and no others."""
        self._adopt(_Watched.of(current))

    def _adopt(self, current: _Watched) -> None:
        if self._model is None or current.version != self._model.version:
            self._model, self._summary = current, None
            watched = current.reference is not None
            self._counter = Counter(Layout.of(current.labels)) if watched else None

    async def follow(self, current: ServedModel) -> None:
        """Hand over what was counted, and learn what all workers know together of the current
        model. To be called every few seconds.

        Raises:
            OSError: the folder can't be used.
        """
        await self._follow(_Watched.of(current))

    async def _follow(self, current: _Watched) -> None:
        before, counter = self._model, self._counter
        self._adopt(current)
        if counter is not None and before is not None:
            await self._hand_over(before, counter)
            summary = await asyncio.shield(self._thread.run(self._learn, before))
            if before.version == current.version:
                self._summary = summary
                self._metrics.show(summary)
        if self._summary is None:
            self._metrics.clear()

    async def close(self) -> None:
        """Hand over what was counted last."""
        try:
            if self._model is not None:
                await self._follow(self._model)
        finally:
            self._thread.close()

    def reply(self) -> Json:
        """The body of `GET /drift`; see docs/drift.md."""
        model = self._model
        reason = None
        if model is not None and model.reference is None:
            reason = (
                f"version {model.version} has no reference: it was trained before there was any; "
                "train it again"
            )
        return {
            "model_version": "" if model is None else model.version,
            "watched": self._counter is not None,
            "reason": reason,
            "drift": self._summary,
        }

    async def _hand_over(self, model: _Watched, counter: Counter) -> None:
        counts, images = counter.take()
        if not images:
            return
        try:
            # Shielded, or what was taken would be lost where this is cancelled.
            await asyncio.shield(self._thread.run(self._spool, model, counts, images))
        except OSError:  # a full disk, say
            counter.put_back(counts, images)
            raise

    def _spool(self, model: _Watched, counts: NDArray[np.int64], images: int) -> None:
        """In a thread."""
        DriftStore(self._folder / model.version).spool(counts, images)

    def _learn(self, model: _Watched) -> Json | None:
        """In a thread: what is known of the model, by whichever worker may write it now."""
        store = DriftStore(self._folder / model.version)
        with store.lead() as leads:
            if not leads:
                return store.summary()
            return self._lead(store, model)

    def _lead(self, store: DriftStore, model: _Watched) -> Json:
        watch, state = self._new_watch(model), store.state()
        if state is not None:
            try:
                watch.restore(state)
            except (KeyError, ValueError) as error:  # another release's, or with another window
                logger.warning("drift: what was counted before can't be gone on with: %s", error)
                watch, state = self._new_watch(model), None
        now = self._now()
        names, counts, images = store.spooled(state, watch.layout.size)
        known = store.summary()
        is_known = state is not None and not names and known is not None
        if known is not None and is_known and now - known["updated"] < _LEAST_OFTEN_S:
            return known
        before = set(watch.alarms)
        watch.add(counts, images, now)
        summary = summarise(watch, now)
        store.save(watch.state(), names, summary)
        for name in set(watch.alarms) - before:
            logger.warning(
                "drift: %s of the images of version %s differs from the reference (after %d "
                "images; see /drift)", name, model.version, watch.images,
            )  # fmt: skip
        _tell(store, model, watch)
        return summary

    def _new_watch(self, model: _Watched) -> Watch:
        assert model.reference is not None, "there is a counter, so there is a reference"
        return Watch(model.reference, model.labels, self._window, self._rules)


def _tell(store: DriftStore, model: _Watched, watch: Watch) -> None:
    """Queue the event of each alarm that wasn't yet, with an id that stays: what a worker that is
    killed here, or a queue on a full disk, leaves untold is told at a later look."""
    told, alarms = store.told(), set[str]()
    for one in watch.features:
        if one.alarm_at is None:
            continue
        identifier = f"{model.version}-{one.feature.name}-{one.alarm_at:.0f}"
        content = {"feature": one.feature.name, "images": watch.images, "host": gethostname()}
        tag, at = f"{model.name}:{model.version}", datetime.fromtimestamp(one.alarm_at, UTC)
        if identifier in told or emit("drift.detected", tag, content, id=identifier, time=at):
            alarms.add(identifier)
    if alarms - told:
        store.note_told(alarms)
