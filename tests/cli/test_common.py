"""Lines stay whole where several processes write to one pipe."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest

from cli.common import say, say_error
from cli.console import ConsoleReporter


class Writes(io.RawIOBase):
    """What a process asks the kernel to write, call by call."""

    def __init__(self) -> None:
        self.calls: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.calls.append(bytes(data))
        return len(data)


@pytest.mark.parametrize(
    "tell",
    [say, say_error, lambda line: ConsoleReporter().say(line), lambda x: ConsoleReporter().warn(x)],
    ids=["say", "say_error", "reporter's say", "reporter's warn"],
)
def test_a_line_is_one_write_where_python_does_not_buffer(
    tell: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under torchrun, and with PYTHONUNBUFFERED=1 in containers."""
    writes = Writes()
    unbuffered = io.TextIOWrapper(writes, encoding="utf-8", write_through=True)  # type: ignore[type-var]
    monkeypatch.setattr("sys.stdout", unbuffered)
    monkeypatch.setattr("sys.stderr", unbuffered)
    tell("data 'none' does not exist")
    assert [call for call in writes.calls if call] == [writes.calls[0]]
    assert writes.calls[0].endswith(b"data 'none' does not exist\n")
