"""Follows what the store says is being tried beside production.

Each worker of each replica looks for itself, as it does for promotions, so nobody has to tell them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from models.errors import StoreError, UserError
from models.events.announcing import announce_promotions
from models.monitoring.canary_tests import CanaryTally
from models.registry import canaries, shadowing, store
from models.registry.rollouts import Canary as DesiredCanary
from models.registry.rollouts import Rollout
from models.registry.rollouts import Shadow as DesiredShadow
from models.registry.tallies import write_tally
from serving.core.dataplane import DataPlane, PixelRow
from serving.core.looker import Looker
from serving.core.requests import InferRequest, InferResponse
from serving.core.served_model import ServedModel
from serving.core.supervisor import Supervisor
from serving.core.workers import Workers
from serving.engine.right_of_way import Traffic
from serving.rollout.canary import Canary, cannot_stand_in
from serving.rollout.process import CandidateProcess, candidate_command
from serving.rollout.recorder import Recorder, image_key, worker_name
from serving.rollout.shadow import Shadow, ShadowMetrics

logger = logging.getLogger(__name__)

# By what name it is logged and counted.
WATCH = "the watch over rollouts"
_OFFER, _ROUTE, _COUNT = "the shadow", "the canary", "the counts of a rollout"
# A look is one small file read, and what is written some 10 kB.
_LOOK_S = 30.0
# What a reader sees is so old at most; a write costs a flush to the disk.
_WRITE_EVERY_S = 5.0
# From a canary's promotion until the watch over promotions has made it current.
_TAKE_UP_S = 60.0
# The end of a service, or of a rollout, waits so long for the store.
_LAST_WRITE_S = 5.0


class RolloutMetrics(ShadowMetrics, Protocol):
    """Where shadows and canaries are counted."""

    def show_canary(self, version: str, percent: float) -> None: ...
    def count_canary(self, version: str, kind: str, hits: int, count: int) -> None: ...


@dataclass(frozen=True)
class ShadowOptions:
    """How shadows are run here.

    Args:
        worker_index: of the BentoML worker, from 1. timeout_s: see `Shadow`.
        keeps_pictures: whether images on which the two differ may be written into the store.
    """

    worker_index: int
    timeout_s: float
    keeps_pictures: bool


@dataclass(frozen=True)
class _Seen:
    """In the store: what is to run, what other workers counted of a canary, and the version that
    is in production."""

    wanted: Rollout | None
    others: list[CanaryTally]
    production: str | None


class RolloutWatch:
    """Starts and ends shadows and canaries. Of one event loop.

    Args:
        classifier: whose answers a shadow is given, and whose requests a canary is.
        traffic: the requests that go before a shadow.
        command: of a candidate's process, by its version; None: `candidate_command`.
    """

    def __init__(
        self,
        classifier: DataPlane,
        traffic: Traffic,
        options: ShadowOptions,
        metrics: RolloutMetrics,
        supervisor: Supervisor,
        command: Callable[[str], list[str]] | None = None,
    ) -> None:
        self._classifier = classifier
        self._traffic = traffic
        self._options = options
        self._metrics = metrics
        self._supervisor = supervisor
        self._command = command or partial(candidate_command, worker_index=options.worker_index)
        self._name = worker_name()
        self._id = ""  # of what runs
        self._shadow: Shadow | None = None
        self._canary: Canary | None = None
        self._written_at = 0.0
        self._promoted_at = 0.0
        self._announced: object = None
        self._store = Looker("rollout", self._look, _LOOK_S, _no_answer)
        self._threads = Workers(1, "rollout end")  # daemons: a store that hangs keeps none alive

    async def follow(self) -> None:
        """One look: start or end what the store says, and watch what runs.

        Raises:
            StoreError: the store's file is damaged, or the store doesn't answer. What runs goes on.
        """
        if self._shadow is not None:
            self._shadow.check()
        seen = await self._store.look()
        if self._becomes_current(seen.production):
            return
        wanted = seen.wanted
        if wanted is not None and self._classifier.models.current.version != wanted.against:
            wanted = None  # this service serves another version, or doesn't serve that one yet
        if (wanted.id if wanted is not None else "") != self._id:
            await self._end()
            if wanted is not None:
                await self._begin(wanted)
        elif self._canary is not None and isinstance(wanted, DesiredCanary):
            self._canary.desired = wanted  # a step further, perhaps
            self._canary.look(seen.others)
            self._metrics.show_canary(wanted.version, wanted.percent)

    def add_label(self, request_id: str, index: int, label: str) -> None:
        """That a client told of image `index`, from 0, of a request."""
        if self._shadow is not None:
            self._shadow.recorder.add_label(image_key(request_id, index), label)

    async def close(self) -> None:
        """End what runs, and write down what it counted, if the store takes it."""
        await self._end()
        self._store.close()
        self._threads.close()

    def _look(self) -> _Seen:
        """In the thread. What this worker counted goes into the store, a canary's next step is
        taken when it is time, and what production has left behind is ended."""
        shadow, canary = self._shadow, self._canary  # the loop may end them meanwhile
        if time.monotonic() - self._written_at >= _WRITE_EVERY_S:
            self._written_at = time.monotonic()
            try:
                self._write_counts(shadow, canary)
            except OSError as error:  # the store may be mounted read-only: told, and counts go on
                self._supervisor.failed(_COUNT, error)
            else:
                self._supervisor.succeeded(_COUNT)
        token = shadowing.rollouts().token()
        if token != self._announced and announce_promotions():
            self._announced = token
        production = store.production_version_or_none()
        wanted = shadowing.rollouts().current()
        if wanted is not None and wanted.against != production:
            self._end_stale(production)
            wanted = None
        if wanted is None:
            return _Seen(None, [], production)
        others = canaries.tallies_of(wanted) if isinstance(wanted, DesiredCanary) else []
        return _Seen(wanted, others, production)

    def _end_stale(self, production: str | None) -> None:
        """Else it would go on by itself when production returns to what it began against. Where
        production isn't known, or the store is mounted read-only, others have to."""
        if production is not None:
            with suppress(OSError):
                shadowing.end_if_stale()

    def _write_counts(self, shadow: Shadow | None, canary: Canary | None) -> None:
        if shadow is not None:
            shadow.recorder.write()
        if canary is not None:
            self._write(canary)
            if done := canaries.decide(canary.desired):
                logger.warning("canary %s: %s", canary.desired.version, done)

    def _becomes_current(self, production: str | None) -> bool:
        """Whether the canary was promoted and isn't current yet: dropped now, it would have to be
        loaded again. Not for ever: a service may be told to serve a version of its own."""
        if self._canary is None or production != self._canary.desired.version:
            return False
        if self._classifier.models.current.version == production:
            return False
        self._promoted_at = self._promoted_at or time.monotonic()
        return time.monotonic() - self._promoted_at < _TAKE_UP_S

    async def _begin(self, wanted: Rollout) -> None:
        self._written_at = self._promoted_at = 0.0
        if isinstance(wanted, DesiredCanary):
            await self._begin_canary(wanted)
        else:
            self._begin_shadow(wanted)
        self._id = wanted.id  # after an error the next look tries again

    def _begin_shadow(self, wanted: DesiredShadow) -> None:
        recorder = Recorder(
            shadowing.directory(), wanted.id, keeps_pictures=self._options.keeps_pictures
        )
        self._shadow = Shadow(
            wanted.version,
            wanted.against,
            lambda: CandidateProcess(self._command(wanted.version)),
            self._traffic,
            recorder,
            self._metrics,
            timeout_s=self._options.timeout_s,
        )
        self._classifier.watcher = self._offer
        logger.info("%s goes into the shadow of %s", wanted.version, wanted.against)

    async def _begin_canary(self, wanted: DesiredCanary) -> None:
        """One that can't be loaded here, or can't stand in, is taken back everywhere."""
        models = self._classifier.models
        try:
            model = await models.hold(wanted.version)
            why = cannot_stand_in(model, models.current)
        except UserError as error:
            why = f"it can't be loaded: {error}"
        if why:
            logger.error("canary %s is taken back: %s", wanted.version, why)
            await models.release(wanted.version)
            try:
                await self._threads.run(shadowing.rollouts().end, wanted, "returned", why)
            except OSError as error:  # as in `_look`: of this worker it is no canary anyway
                self._supervisor.failed(_COUNT, error)
            return
        self._canary = Canary(
            wanted,
            model,
            self._name,
            lambda: self._traffic.alone_s,
            self._metrics.count_canary,
        )
        self._classifier.watcher, self._classifier.router = self._count, self._route
        self._classifier.failure_watcher = self._count_failure
        self._metrics.show_canary(wanted.version, wanted.percent)
        logger.info("%s answers %g%% of the clients", wanted.version, wanted.percent)

    async def _end(self) -> None:
        self._id = ""
        self._classifier.watcher = self._classifier.router = None
        self._classifier.failure_watcher = None
        shadow, self._shadow = self._shadow, None
        canary, self._canary = self._canary, None
        if shadow is not None:
            await self._threads.run(shadow.close)
            if shadow.recorder.state != "failed":
                shadow.recorder.set_state("ended")
            await self._write_last(shadow.recorder.write)
        if canary is not None:
            self._metrics.show_canary(canary.desired.version, 0)
            await self._write_last(partial(self._write, canary))
            await self._classifier.models.release(canary.desired.version)
            logger.info("%s answers no part of the clients any more", canary.desired.version)

    async def _write_last(self, write: Callable[[], None]) -> None:
        try:
            async with asyncio.timeout(_LAST_WRITE_S):
                await self._threads.run(write)
        except (OSError, TimeoutError) as error:
            logger.warning("what was counted last of a rollout can't be written: %s", error)

    def _write(self, canary: Canary) -> None:
        text = canary.tally.model_dump_json()
        write_tally(shadowing.directory(), canary.desired.id, self._name, text)

    def _offer(
        self, answer: InferResponse, rows: Sequence[PixelRow], request: InferRequest
    ) -> None:
        """For `DataPlane`: whatever goes wrong here is no business of the request."""
        if self._shadow is None:
            return
        try:
            self._shadow.offer(answer, rows, request)
        except Exception as error:
            self._supervisor.failed(_OFFER, error)

    def _route(self, request: InferRequest, production: ServedModel) -> ServedModel:
        """As `_offer`."""
        if self._canary is None:
            return production
        try:
            return self._canary.route(request, production)
        except Exception as error:
            self._supervisor.failed(_ROUTE, error)
            return production

    def _count(
        self, answer: InferResponse, rows: Sequence[PixelRow], request: InferRequest
    ) -> None:
        """As `_offer`."""
        if self._canary is None:
            return
        try:
            self._canary.watch(answer, rows, request)
        except Exception as error:
            self._supervisor.failed(_ROUTE, error)

    def _count_failure(self, model: ServedModel, error: BaseException) -> None:
        """As `_offer`."""
        if self._canary is None:
            return
        try:
            self._canary.watch_failure(model, error)
        except Exception as failure:
            self._supervisor.failed(_ROUTE, failure)


def _no_answer() -> StoreError:
    return StoreError(
        f"the store {shadowing.directory()} doesn't answer within {_LOOK_S:g} s; what is tried "
        "beside production stays as it is"
    )
