"""To whom a job tells what it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Advance = Callable[[int, str], None]
"""Called with the number of items done since the last call, and a note to show beside the bar."""


class Reporter(Protocol):
    """Where a job tells what it does. `verbose`: details are wanted, too."""

    verbose: bool

    def say(self, message: str) -> None: ...
    def warn(self, message: str) -> None: ...

    def progress(
        self, description: str, total: int, *, unit: str = ""
    ) -> AbstractContextManager[Advance]:
        """A bar, from 0 to `total`.

        Args:
            unit: what is counted, where its rate a second says how long such work takes: images
                that are read, and not steps, nor features that lie ready.
        """
        ...


@contextmanager
def steps(reporter: Reporter, description: str, count: int) -> Iterator[Callable[[str], None]]:
    """A bar for work of few steps; what it gives is called with the name of each that begins."""
    with reporter.progress(description, count) as advance:
        begun = 0

        def begin(name: str) -> None:
            nonlocal begun
            advance(min(begun, 1), name)
            begun += 1

        yield begin


class SilentReporter:
    """Keeps what it is told; for tests and for callers with a console of their own."""

    verbose = False

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.warnings: list[str] = []

    def say(self, message: str) -> None:
        self.messages.append(message)

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    @contextmanager
    def progress(self, description: str, total: int, *, unit: str = "") -> Iterator[Advance]:
        yield lambda done, note: None
