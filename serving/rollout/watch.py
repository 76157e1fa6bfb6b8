"""Follows what the store says is being tried beside production.

Each worker of each replica looks for itself, as it does for promotions, so nobody has to tell them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from models.errors import StoreError
from models.registry import shadowing
from models.registry.rollouts import Rollout
from models.registry.rollouts import Shadow as DesiredShadow
from serving.core.dataplane import DataPlane, Row
from serving.core.looker import Looker
from serving.core.requests import InferResponse
from serving.core.supervisor import Supervisor
from serving.engine.right_of_way import Traffic
from serving.rollout.process import CandidateProcess, candidate_command
from serving.rollout.recorder import Recorder, image_key
from serving.rollout.shadow import Shadow, ShadowMetrics

logger = logging.getLogger(__name__)

# By what name it is logged and counted.
WATCH = "the watch over rollouts"
_OFFER = "the shadow"
# A look is one small file read, and what is written some 10 kB.
_LOOK_S = 30.0
# What a reader sees is so old at most; a write costs a flush to the disk.
_WRITE_EVERY_S = 5.0


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


class RolloutWatch:
    """Starts and ends shadows. Of one event loop.

    Args:
        classifier: whose answers a shadow is given.
        traffic: the requests that go before it.
        command: of a candidate's process, by its version; None: `candidate_command`.
    """

    def __init__(
        self,
        classifier: DataPlane,
        traffic: Traffic,
        options: ShadowOptions,
        metrics: ShadowMetrics,
        supervisor: Supervisor,
        command: Callable[[str], list[str]] | None = None,
    ) -> None:
        self._classifier = classifier
        self._traffic = traffic
        self._options = options
        self._metrics = metrics
        self._supervisor = supervisor
        self._command = command or partial(candidate_command, worker_index=options.worker_index)
        self._desired: DesiredShadow | None = None
        self._shadow: Shadow | None = None
        self._written_at = 0.0
        self._store = Looker("rollout", self._look, _LOOK_S, _no_answer)

    async def follow(self) -> None:
        """One look: start or end what the store says, and watch what runs.

        Raises:
            StoreError: the store's file is damaged, or the store doesn't answer. OSError: what was
            counted can't be written. What runs goes on.
        """
        if self._shadow is not None:
            self._shadow.check()
        desired = await self._store.look()
        wanted = desired if isinstance(desired, DesiredShadow) else None
        if (wanted and wanted.id) == (self._desired and self._desired.id):
            return
        await self._end_shadow()
        self._desired = wanted
        if wanted is not None:
            self._begin_shadow(wanted)

    def add_label(self, request_id: str, index: int, label: str) -> None:
        """That a client told of image `index`, from 0, of a request."""
        if self._shadow is not None:
            self._shadow.recorder.add_label(image_key(request_id, index), label)

    async def close(self) -> None:
        """End what runs, and write down what it counted, if the store takes it."""
        await self._end_shadow()
        self._store.close()

    def _look(self) -> Rollout | None:
        """In the thread: what is to run, and what was counted goes there."""
        recorder = self._shadow.recorder if self._shadow is not None else None
        if recorder is not None and time.monotonic() - self._written_at >= _WRITE_EVERY_S:
            self._written_at = time.monotonic()
            recorder.write()
        current = shadowing.rollouts().current()
        return None if current is None or shadowing.is_stale(current) else current

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

    async def _end_shadow(self) -> None:
        shadow, self._shadow = self._shadow, None
        self._classifier.watcher = None
        if shadow is None:
            return
        await asyncio.to_thread(shadow.close)
        if shadow.recorder.state != "failed":
            shadow.recorder.set_state("ended")
        try:
            async with asyncio.timeout(_WRITE_EVERY_S):
                await asyncio.to_thread(shadow.recorder.write)
        except (OSError, TimeoutError) as error:
            logger.warning("what the shadow counted last can't be written: %s", error)

    def _offer(self, answer: InferResponse, rows: Sequence[Row], images: Sequence[bytes]) -> None:
        """For `DataPlane`: whatever goes wrong here is no business of the request."""
        if self._shadow is None:
            return
        try:
            self._shadow.offer(answer, rows, images)
        except Exception as error:
            self._supervisor.failed(_OFFER, error)


def _no_answer() -> StoreError:
    return StoreError(
        f"the store {shadowing.directory()} doesn't answer within {_LOOK_S:g} s; what is tried "
        "beside production stays as it is"
    )
