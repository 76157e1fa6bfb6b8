from __future__ import annotations

import os
import pty
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.console import ConsoleReporter
from cli.streams import LastingStream


def closed_terminal() -> int:
    """The descriptor of a program whose terminal was closed."""
    master, slave = pty.openpty()
    os.close(master)
    return slave


def broken_pipe() -> int:
    """The descriptor of a program whose output nobody reads any more."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.mark.parametrize("gone", [closed_terminal, broken_pipe])
def test_output_that_nobody_can_read_goes_nowhere(
    gone: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with os.fdopen(gone(), "w") as stream:
        monkeypatch.setattr("sys.stdout", stream)
        reporter = ConsoleReporter()
        with reporter.progress("training", 3) as advance:
            advance(1, "loss 0.5")
            reporter.say("epoch 1")
        reporter.say("epoch 2")
        print("what others write", flush=True)


def test_other_errors_are_errors() -> None:
    with Path("/dev/full").open("w") as full:
        stream = LastingStream(full)
        stream.write("x")
        with pytest.raises(OSError, match="No space left"):
            stream.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())  # so that it can be closed
