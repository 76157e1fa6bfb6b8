"""A loaded, warmed model, and who uses it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.bundle.acceptance import Acceptance
from models.bundle.spec import ModelSpec
from models.monitoring.reference import Reference
from serving.core.batcher import Batcher
from serving.core.explainer import Explainer
from serving.core.statistics import ModelStatistics
from serving.engine.right_of_way import Traffic
from serving.engine.session import ModelOutput, is_accepted

logger = logging.getLogger(__name__)

ImageBatcher = Batcher[NDArray[np.uint8], ModelOutput]


@dataclass(frozen=True)
class Rerun:
    """Which images run again, in which precision: those whose two best labels lie no further apart
    than `margin`, 0..1 (`models.bundle.cascade`)."""

    precision: str
    margin: float


@dataclass(frozen=True)
class Runs:
    """Which graph of the bundle answers: `float32`, or a variant by its name."""

    variant: str = "float32"
    rerun: Rerun | None = None


_FLOAT32 = Runs()


class ServedModel:
    """A loaded, warmed model with its batcher.

    Args:
        metrics: what training measured, as in the bundle.
        provider: what it runs on: an execution provider of ONNX Runtime, or ncnn.
        statistics: counted by `batcher` and by those who ask.
        explainer: makes its heat maps; None: it has none.
        acceptance: which of its answers are to be trusted; None: it doesn't say, so all are.
        has_distance: whether its answers have one, see `ModelOutput`.
        reference: what its production is compared with; None: the bundle has none.
        runs: which graph.
        traffic: of all models: who loads another one gives way to it.
        last_run: images and seconds of its last run; (0, 0.0) before the first.
        features: uint8[S,S,3] -> float32[K], what its head reads; gives way to requests, so it may
            take seconds. None: its graph doesn't tell.
    """

    def __init__(
        self,
        *,
        name: str,
        version: str,
        spec: ModelSpec,
        metrics: dict[str, Any],
        provider: str,
        batcher: ImageBatcher,
        statistics: ModelStatistics,
        explainer: Explainer | None = None,
        acceptance: Acceptance | None = None,
        has_distance: bool = False,
        reference: Reference | None = None,
        runs: Runs = _FLOAT32,
        traffic: Traffic | None = None,
        last_run: Callable[[], tuple[int, float]] = lambda: (0, 0.0),
        features: Callable[[NDArray[np.uint8]], NDArray[np.float32]] | None = None,
    ) -> None:
        self.name = name
        self.version = version
        self.spec = spec
        self.metrics = metrics
        self.provider = provider
        self.batcher = batcher
        self.statistics = statistics
        self.explainer = explainer
        self.acceptance = acceptance
        self.has_distance = has_distance
        self.reference = reference
        self.runs = runs
        self.last_run = last_run
        self.features = features
        self._traffic = traffic or Traffic()
        self._users = 0
        self._unused = asyncio.Event()
        self._unused.set()

    def accepts(self, output: ModelOutput) -> bool:
        """Whether to trust an answer of this model."""
        return is_accepted(self.acceptance, output)

    @property
    def running_s(self) -> float:
        """How long its oldest batch, or what its explainer does, has been running."""
        explaining = 0.0 if self.explainer is None else self.explainer.running_s
        return max(self.batcher.running_s, explaining)

    def acquire(self) -> None:
        """Before a request is decoded: `close` waits for its `release`."""
        self._users += 1
        self._unused.clear()
        self._traffic.enter()

    def release(self) -> None:
        """When it is answered, or failed."""
        self._users -= 1
        self._traffic.leave()
        if not self._users:
            self._unused.set()

    async def close(self, grace_s: float) -> None:
        """Wait for those who use it, up to `grace_s`, and end."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace_s
        try:
            async with asyncio.timeout(grace_s):
                await self._unused.wait()
        except TimeoutError:
            logger.warning("%s:%s is closed while %d use it", self.name, self.version, self._users)
        await self.batcher.close(max(0.0, deadline - loop.time()))
        if self.explainer is not None:
            await self.explainer.close(max(0.0, deadline - loop.time()))
