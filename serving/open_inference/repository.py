"""The model repository extension: which versions there are, and loading and unloading them.

Triton's clients name no version when they load or unload. So loading without one takes what is
promoted now, and unloading without one drops every version beside the current one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from models.errors import UserError
from models.registry.store import VERSION
from serving.core.errors import BadRequest, Conflict, UnknownModel
from serving.core.pool import ModelPool


@dataclass(frozen=True)
class IndexEntry:
    """A registered version. `reason`: why it couldn't become the current one."""

    name: str
    version: str
    state: Literal["READY", "UNAVAILABLE"]
    reason: str = ""


class Repository:
    """What the admin key may do.

    Args:
        list_versions: every registered version; reads files.
        follow: makes what is promoted now current, see `ModelPool.follow`.
        shared: other workers hold models of their own, which this one can't reach.
    """

    def __init__(
        self,
        models: ModelPool,
        list_versions: Callable[[], list[str]],
        follow: Callable[[], Awaitable[None]],
        *,
        shared: bool,
    ) -> None:
        self._models = models
        self._list_versions = list_versions
        self._follow = follow
        self._shared = shared

    async def index(self, *, only_ready: bool) -> list[IndexEntry]:
        """Every registered version, or those that are loaded."""
        versions = await asyncio.to_thread(self._list_versions)
        entries = [self._entry(version) for version in versions]
        return [entry for entry in entries if entry.state == "READY" or not only_ready]

    async def load(self, name: str, version: str) -> None:
        """Load a version beside the current one; "" makes what is promoted current.

        Raises:
            UnknownModel: another model. BadRequest: the version is no name of one.
            Conflict: it can't be loaded, or there are other workers.
        """
        self._check(name, version)
        try:
            await (self._models.load(version) if version else self._follow())
        except UserError as error:
            raise Conflict(f"version '{version}' can't be loaded: {error}") from None
        failed = self._models.failed
        if not version and failed is not None:
            raise Conflict(f"version '{failed.desired.version}' can't be loaded: {failed.reason}")

    async def unload(self, name: str, version: str) -> None:
        """Drop a version that was loaded beside the current one; "" drops all those.

        Raises:
            UnknownModel: another model, or it isn't loaded. BadRequest: see `load`.
            Conflict: it is the current one, or there are other workers.
        """
        self._check(name, version)
        beside = self._models.versions[1:]
        if not version and not beside:
            raise Conflict(
                f"only the current version, {self._models.current.version}, is loaded, and it "
                "stays; promote another one first"
            )
        for one in [version] if version else beside:
            await self._models.unload(one)

    def _check(self, name: str, version: str) -> None:
        current = self._models.current
        if name != current.name:
            raise UnknownModel(f"model '{name[:50]}' is not served here; '{current.name}' is")
        if version and not VERSION.fullmatch(version):
            raise BadRequest(
                f"'{version[:50]}' is not a version; versions look like 20260131-120000-1a2b3c"
            )
        if self._shared:
            raise Conflict(
                "several workers serve (VGG19_WORKERS), and each has models of its own; promote a "
                "version, which all of them follow"
            )

    def _entry(self, version: str) -> IndexEntry:
        failed = self._models.failed
        reason = failed.reason if failed and failed.desired.version == version else ""
        loaded = version in self._models.versions
        state: Literal["READY", "UNAVAILABLE"] = "READY" if loaded else "UNAVAILABLE"
        return IndexEntry(self._models.current.name, version, state, reason)
