"""What the store says of production, for the page; and the way back to the version before.

Promise: no request waits longer than `_LIMIT_S` for a store that hangs, as network storage can, and
it takes no thread from anybody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from models.errors import UserError
from models.registry import canaries, shadowing, store
from models.registry.promotions import Promotion
from models.registry.tallies import Picture, read_pictures
from serving.core.errors import Conflict, Overloaded
from serving.core.workers import Workers

T = TypeVar("T")

# A look reads two small files; checking a model that is rolled back to reads 0.6 GB.
_LIMIT_S = 5.0
_ROLLBACK_S = 60.0
# 20 kB each.
_PICTURES = 24


@dataclass(frozen=True)
class Record:
    """The history of production, the present first; the version that a rollback returns to; and
    what is tried beside it, as `vgg19 shadow --json` and `vgg19 canary --json` say it."""

    promotions: list[Promotion]
    rollback_to: str | None
    shadow: dict[str, Any] | None
    canary: dict[str, Any] | None


class Production:
    """Of one event loop. What fails in the store is a RequestError with its words.

    Args:
        on_change: called after production was changed.
    """

    def __init__(self, on_change: Callable[[], None] = lambda: None) -> None:
        self._on_change = on_change
        self._thread: Workers | None = None
        self._under_way: asyncio.Future[Any] | None = None

    async def record(self) -> Record:
        """What was promoted when.

        Raises:
            Overloaded: the store doesn't answer.
            Conflict: it is damaged.
        """
        return await self._run(_record, _LIMIT_S)

    async def differing(self) -> list[Picture]:
        """The images on which production and its shadow differ most.

        Raises: as `record`.
        """
        return await self._run(_pictures, _LIMIT_S)

    async def roll_back(self, shown: str) -> str:
        """Have production serve what it served before; the new version.

        Args:
            shown: the version that whoever asks believes to be in production.

        Raises:
            Conflict: it isn't any more, or there is nothing to go back to.
            Overloaded: as `record`.
        """
        version = await self._run(lambda: _roll_back(shown), _ROLLBACK_S)
        self._on_change()
        return version

    def close(self) -> None:
        """Doesn't wait for what is under way."""
        if self._thread is not None:
            self._thread.close()

    async def _run(self, work: Callable[[], T], limit_s: float) -> T:
        if self._under_way is not None and not self._under_way.done():
            done, _ = await asyncio.wait([self._under_way], timeout=limit_s)
            if not done:
                raise _away(limit_s)
        self._thread = self._thread or Workers(1, "production")
        future = self._thread.run(work)
        self._under_way = future
        done, _ = await asyncio.wait([future], timeout=limit_s)
        if not done:
            raise _away(limit_s)
        try:
            return future.result()
        except (UserError, OSError) as error:
            raise Conflict(str(error)) from None


def _record() -> Record:
    shadow = shadowing.shadow_status()
    return Record(
        store.promotions(),
        store.rollback_version(),
        None if shadow is None else shadow.as_json(),
        canaries.canary_json(),
    )


def _pictures() -> list[Picture]:
    shadow = shadowing.current_shadow()
    if shadow is None:
        return []
    return read_pictures(shadowing.directory(), shadow.id)[:_PICTURES]


def _roll_back(shown: str) -> str:
    present = store.production_version()
    if present != shown:
        raise Conflict(f"production is {present} by now, and not {shown}; load the page again")
    tag = store.rollback(why="rolled back on the page")
    return tag.removeprefix(f"{store.MODEL_NAME}:")


def _away(limit_s: float) -> Overloaded:
    return Overloaded(
        f"the store {store.store_path()} doesn't answer within {limit_s:g} s; try again later"
    )
