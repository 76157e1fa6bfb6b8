"""Waiting for what threads and other processes do."""

from __future__ import annotations

import time
from collections.abc import Callable

# Far more than anything that is waited for takes, also on a machine that others keep busy: only a
# failure waits so long.
HANG_S = 120.0


def wait_until(holds: Callable[[], object]) -> None:
    """Ask again and again until it is true.

    Raises:
        AssertionError: it wasn't within `HANG_S`.
    """
    deadline = time.monotonic() + HANG_S
    while not holds():
        assert time.monotonic() < deadline, "it didn't come to that"
        time.sleep(0.02)
