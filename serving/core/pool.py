"""The loaded models: the current one, and others that are addressed by their version.

A new current model is loaded and warmed beside the old one and takes its place in one assignment,
so a request is answered by the one or the other, whole. Knows no store and no transport.

Promise: never two loads at once, and one that has begun comes to its end whoever waits for it: its
caller may give up, and the model is there for the next.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from models.errors import UserError
from serving.core.errors import Conflict, UnknownModel
from serving.core.served_model import ServedModel
from serving.core.waiting import outlasting
from serving.core.workers import Workers
from serving.engine.memory import trim_memory

logger = logging.getLogger(__name__)

T = TypeVar("T")
# How long after an error that nobody expected the same version is tried again; then twice as long.
_RETRY_S, _MAX_RETRY_S = 30.0, 600.0


@dataclass(frozen=True)
class DesiredVersion:
    """The version that is to be current. `token` changes whenever somebody chooses it anew."""

    version: str
    token: object = None


@dataclass(frozen=True)
class FailedLoad:
    """A version that was to become current and couldn't; the old one goes on. It is tried again
    `retry_s` later, at `retry_at` by the loop's clock; where that is None, when it is promoted."""

    desired: DesiredVersion
    reason: str
    retry_at: float | None = None
    retry_s: float = 0.0


class ModelPool:
    """Loads, swaps and drops models. All methods belong to one event loop.

    Args:
        load: called in a thread with a version; gives the model, warmed. Raises UserError.
        grace_s: how long a dropped model may finish what it was given.
        on_reload: called with the new model after each change of the current one, and with None
            after one that failed.
        retry_s: how long after an error that nobody expected a version is tried again.
        trim: called in a thread when a model was loaded or dropped: gives back what that freed.
    """

    def __init__(
        self,
        load: Callable[[str], ServedModel],
        *,
        grace_s: float,
        on_reload: Callable[[ServedModel | None], None] = lambda model: None,
        retry_s: float = _RETRY_S,
        trim: Callable[[], object] = trim_memory,
    ) -> None:
        self._load = load
        self._grace_s = grace_s
        self._on_reload = on_reload
        self._retry_s = retry_s
        self._trim = trim
        self._loaded: dict[str, ServedModel] = {}
        self._current: ServedModel | None = None
        self._chosen: DesiredVersion | None = None
        self._asked_for: set[str] = set()  # by clients, until `unload`
        self._held: set[str] = set()  # by the service itself, until `release`
        self._closing: set[asyncio.Task[None]] = set()
        # One change after another; held until its load has ended, also where nobody waits for it.
        self._lock = asyncio.Lock()
        self._changes: set[asyncio.Task[Any]] = set()
        # A thread of its own: a load that hangs takes none from others, and keeps no process alive.
        self._loader = Workers(1, "load")
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
        and note it in `failed`. Such a version is tried again when it is promoted again; after an
        error that isn't a user's, also by and by.
        """
        await self._to_its_end(self._follow(desired))

    async def _follow(self, desired: DesiredVersion) -> None:
        async with self._lock:
            if desired == self._chosen or not self._may_try(desired):
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
                self._fail(desired, "an internal error; see the log", is_retried=True)
                return
            was_stale = self.failed is not None
            old, self._current, self._chosen, self.failed = self._current, new, desired, None
            if old is not new or was_stale:
                self._on_reload(new)
            if old is new:
                return
            logger.info("serving %s:%s on %s", new.name, new.version, new.provider)
            if old is not None and not self._is_kept(old.version):
                self._drop(old)

    @property
    def running_s(self) -> float:
        """How long the oldest batch, or the making of heat maps, of any model has been running."""
        return max((model.running_s for model in self._loaded.values()), default=0.0)

    async def load(self, version: str) -> ServedModel:
        """Load a version beside the current one. Goes on if the caller is cancelled.

        Raises:
            UserError: it can't be loaded.
        """
        return await self._to_its_end(self._load_beside(version))

    async def _load_beside(self, version: str) -> ServedModel:
        async with self._lock:
            model = await self._loaded_model(version)
            self._asked_for.add(version)
            return model

    async def hold(self, version: str) -> ServedModel:
        """As `load`, for the service itself: it stays loaded until `release`, whoever unloads it.

        Raises:
            UserError: it can't be loaded.
        """
        return await self._to_its_end(self._load_held(version))

    async def _load_held(self, version: str) -> ServedModel:
        async with self._lock:
            model = await self._loaded_model(version)
            self._held.add(version)
            return model

    async def unload(self, version: str) -> None:
        """Drop a version that was loaded beside the current one.

        Raises:
            UnknownModel: it isn't loaded.
            Conflict: it is the current one, or held.
        """
        async with self._lock:
            model = self.get(self.current.name, version)
            if model is self.current:
                raise Conflict(
                    f"version {model.version} is the current one; promote another one first"
                )
            if version in self._held:
                raise Conflict(
                    f"version {version} is a canary, which answers clients; "
                    "'vgg19 canary --abort' ends it"
                )
            self._asked_for.discard(version)
            self._drop(model)

    async def release(self, version: str) -> None:
        """End `hold`. Dropped, unless it has become the current one or a client has loaded it."""
        async with self._lock:
            self._held.discard(version)
            model = self._loaded.get(version)
            if model is not None and model is not self._current and not self._is_kept(version):
                self._drop(model)

    async def close(self) -> None:
        """Finish what was accepted, within the grace period; a load that runs isn't waited for."""
        for change in self._changes:
            change.cancel()
        self._loader.close()
        for model in list(self._loaded.values()):
            self._drop(model)
        await asyncio.gather(*self._closing, return_exceptions=True)  # logged by `_closed`

    async def _loaded_model(self, version: str) -> ServedModel:
        if version not in self._loaded:
            self._loaded[version] = await self._loader.run(self._load, version)
            await asyncio.to_thread(self._trim)  # what loading took besides the model
        return self._loaded[version]

    def _is_kept(self, version: str) -> bool:
        return version in self._asked_for or version in self._held

    def _drop(self, model: ServedModel) -> None:
        del self._loaded[model.version]
        task = asyncio.get_running_loop().create_task(model.close(self._grace_s))
        self._closing.add(task)
        task.add_done_callback(self._closed)

    def _closed(self, task: asyncio.Task[None]) -> None:
        self._closing.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a model can't be closed", exc_info=error)
        loop = asyncio.get_running_loop()
        # In the next turn, when the task has let go of the model, too; off the loop, for it takes
        # some milliseconds.
        loop.call_soon(lambda: loop.run_in_executor(None, self._trim))

    async def _to_its_end(self, change: Coroutine[Any, Any, T]) -> T:
        """Its result; it goes on, lock and all, when the caller is cancelled: a thread that loads
        can't be interrupted, and the next load would start beside it."""
        task = asyncio.get_running_loop().create_task(change)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        try:
            return await outlasting(task)
        except asyncio.CancelledError:
            task.add_done_callback(_tell_who_is_not_waited_for)
            raise

    def _may_try(self, desired: DesiredVersion) -> bool:
        if self.failed is None or desired != self.failed.desired:
            return True
        retry_at = self.failed.retry_at
        return retry_at is not None and asyncio.get_running_loop().time() >= retry_at

    def _fail(self, desired: DesiredVersion, reason: str, *, is_retried: bool = False) -> None:
        before = self.failed
        self.failed = FailedLoad(desired, reason)
        if is_retried:
            wait_s = self._retry_s
            if before is not None and before.desired == desired and before.retry_s:
                wait_s = min(2 * before.retry_s, _MAX_RETRY_S)
            retry_at = asyncio.get_running_loop().time() + wait_s
            self.failed = FailedLoad(desired, reason, retry_at, wait_s)
        logger.error(
            "%s can't be served, %s keeps serving: %s",
            desired.version,
            self.current.version,
            reason,
        )
        self._on_reload(None)


def _tell_who_is_not_waited_for(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.warning("a load whose client had gone failed: %s", error)
