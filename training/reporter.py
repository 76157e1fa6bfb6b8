"""To whom a job tells what it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Advance = Callable[[int, str], None]
"""Called with the number of items done since the last call, and a note to show beside the bar."""


class Reporter(Protocol):
    """Where a job tells what it does."""

    def say(self, message: str) -> None: ...
    def warn(self, message: str) -> None: ...
    def progress(self, description: str, total: int) -> AbstractContextManager[Advance]: ...


class SilentReporter:
    """Keeps what it is told; for tests and for callers with a console of their own."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.warnings: list[str] = []

    def say(self, message: str) -> None:
        self.messages.append(message)

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    @contextmanager
    def progress(self, description: str, total: int) -> Iterator[Advance]:
        yield lambda done, note: None
