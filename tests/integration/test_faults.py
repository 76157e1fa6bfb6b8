"""The faults of reliability/serving.py, with smaller numbers; each starts a service of its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from reliability import serving
from reliability.serving import Finding


@pytest.mark.parametrize(
    "fault",
    [
        partial(serving.model_that_raises, requests=100),
        serving.model_that_hangs,
        partial(serving.worker_killed, times=1),
        partial(serving.swap_to_broken, times=1),
        partial(serving.clients_vanish, thousands=1),
    ],
    ids=["raises", "hangs", "killed", "swap", "vanish"],
)
def test_the_service_keeps_its_promise(fault: Callable[[Path], Finding], tmp_path: Path) -> None:
    finding = fault(tmp_path)
    assert not finding.broken, finding
