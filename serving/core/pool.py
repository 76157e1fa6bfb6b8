"""The loaded models: the current one, and others that are addressed by their version.

A new current model is loaded and warmed beside the old one and takes its place in one assignment,
so a request is answered by the one or the other, whole. Knows no store and no transport.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.acceptance import Acceptance
from models.errors import UserError
from models.spec import ModelSpec
from serving.core.batcher import Batcher
from serving.core.errors import Conflict, UnknownModel
from serving.core.explainer import Explainer
from serving.core.statistics import ModelStatistics
from serving.engine.memory import trim_memory
from serving.engine.session import ModelOutput, is_accepted

logger = logging.getLogger(__name__)

ImageBatcher = Batcher[NDArray[np.uint8], ModelOutput]


class ServedModel:
    """A loaded, warmed model with its batcher.

    Args:
        metrics: what training measured, as in the bundle.
        provider: ONNX Runtime's execution provider that it runs on.
        statistics: counted by `batcher` and by those who ask.
        explainer: makes its heat maps; None: it has none.
        acceptance: which of its answers are to be trusted; None: it doesn't say, so all are.
        has_distance: whether its answers have one, see `ModelOutput`.
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
        self._users = 0
        self._unused = asyncio.Event()
        self._unused.set()

    def accepts(self, output: ModelOutput) -> bool:
        """Whether to trust an answer of this model."""
        return is_accepted(self.acceptance, output)

    def acquire(self) -> None:
        """Before a request is decoded: `close` waits for its `release`."""
        self._users += 1
        self._unused.clear()

    def release(self) -> None:
        """When it is answered, or failed."""
        self._users -= 1
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


@dataclass(frozen=True)
class DesiredVersion:
    """The version that is to be current. `token` changes whenever somebody chooses it anew."""

    version: str
    token: object = None


@dataclass(frozen=True)
class FailedLoad:
    """A version that was to become current and couldn't; the old one goes on."""

    desired: DesiredVersion
    reason: str


class ModelPool:
    """Loads, swaps and drops models. All methods belong to one event loop.

    Args:
        load: called in a thread with a version; gives the model, warmed. Raises UserError.
        grace_s: how long a dropped model may finish what it was given.
        on_reload: called with the new model after each change of the current one, and with None
            after one that failed.
    """

    def __init__(
        self,
        load: Callable[[str], ServedModel],
        *,
        grace_s: float,
        on_reload: Callable[[ServedModel | None], None] = lambda model: None,
    ) -> None:
        self._load = load
        self._grace_s = grace_s
        self._on_reload = on_reload
        self._loaded: dict[str, ServedModel] = {}
        self._current: ServedModel | None = None
        self._chosen: DesiredVersion | None = None
        self._asked_for: set[str] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._lock = asyncio.Lock()
        self.failed: FailedLoad | None = None

    @property
    def current(self) -> ServedModel:
        assert self._current is not None, "the pool is used before `follow`"
        return self._current

    @property
    def versions(self) -> list[str]:
        """Of all loaded models, the current one first."""
        rest = sorted(version for version in self._loaded if version != self.current.version)
        return [self.current.version, *rest]

    def get(self, name: str, version: str = "") -> ServedModel:
        """A loaded model; without a version the current one.

        Raises:
            UnknownModel: another name, or a version that isn't loaded.
        """
        model = self._loaded.get(version or self.current.version)
        if name != self.current.name or model is None:
            raise UnknownModel(
                f"model '{name[:50]}' version '{version[:50]}' is not served here; "
                f"'{self.current.name}' is, version {', '.join(self.versions)}"
            )
        return model

    def find(self, name: str = "", version: str = "") -> list[ServedModel]:
        """The loaded models that fit; "" fits any.

        Raises:
            UnknownModel: none does.
        """
        if version:
            return [self.get(name or self.current.name, version)]
        self.get(name or self.current.name)
        return [self._loaded[version] for version in self.versions]

    async def follow(self, desired: DesiredVersion) -> None:
        """Make `desired` current, if it isn't and hasn't failed to before.

        The first call raises what keeps the model from being loaded; later ones keep the old model
        and note it in `failed`.
        """
        async with self._lock:
            if desired == self._chosen or (self.failed and desired == self.failed.desired):
                return
            try:
                new = await self._loaded_model(desired.version)
            except UserError as error:
                if self._current is None:
                    raise
                self._fail(desired, str(error))
                return
            except Exception:
                if self._current is None:
                    raise
                logger.exception("%s can't be loaded", desired.version)
                self._fail(desired, "an internal error; see the log")
                return
            was_stale = self.failed is not None
            old, self._current, self._chosen, self.failed = self._current, new, desired, None
            if old is not new or was_stale:
                self._on_reload(new)
            if old is new:
                return
            logger.info("serving %s:%s on %s", new.name, new.version, new.provider)
            if old is not None and old.version not in self._asked_for:
                self._drop(old)

    @property
    def running_s(self) -> float:
        """How long the oldest batch of any model has been running."""
        return max((model.batcher.running_s for model in self._loaded.values()), default=0.0)

    async def load(self, version: str) -> ServedModel:
        """Load a version beside the current one.

        Raises:
            UserError: it can't be loaded.
        """
        async with self._lock:
            model = await self._loaded_model(version)
            self._asked_for.add(version)
            return model

    async def unload(self, version: str) -> None:
        """Drop a version that was loaded beside the current one.

        Raises:
            UnknownModel: it isn't loaded.
            Conflict: it is the current one.
        """
        async with self._lock:
            model = self.get(self.current.name, version)
            if model is self.current:
                raise Conflict(
                    f"version {model.version} is the current one; promote another one first"
                )
            self._asked_for.discard(version)
            self._drop(model)

    async def close(self) -> None:
        """Finish what was accepted, within the grace period, and drop all models."""
        for model in list(self._loaded.values()):
            self._drop(model)
        await asyncio.gather(*self._closing)

    async def _loaded_model(self, version: str) -> ServedModel:
        if version not in self._loaded:
            self._loaded[version] = await asyncio.to_thread(self._load, version)
            await asyncio.to_thread(trim_memory)  # what loading took besides the model
        return self._loaded[version]

    def _drop(self, model: ServedModel) -> None:
        del self._loaded[model.version]
        task = asyncio.get_running_loop().create_task(model.close(self._grace_s))
        self._closing.add(task)
        task.add_done_callback(self._closed)

    def _closed(self, task: asyncio.Task[None]) -> None:
        self._closing.discard(task)
        loop = asyncio.get_running_loop()
        # In the next turn, when the task has let go of the model, too; off the loop, for it takes
        # some milliseconds.
        loop.call_soon(lambda: loop.run_in_executor(None, trim_memory))

    def _fail(self, desired: DesiredVersion, reason: str) -> None:
        self.failed = FailedLoad(desired, reason)
        logger.error(
            "%s can't be served, %s goes on: %s", desired.version, self.current.version, reason
        )
        self._on_reload(None)
