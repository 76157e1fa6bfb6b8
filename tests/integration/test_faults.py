"""The faults of reliability/serving.py, with smaller numbers; each starts a service of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from http.client import HTTPConnection
from pathlib import Path

import pytest

from reliability import serving
from reliability.serving import IMAGE, WHITE, Finding
from testing.server import make_home, serve
from testing.waiting import HANG_S


@pytest.mark.parametrize(
    "fault",
    [
        partial(serving.model_that_raises, requests=100),
        serving.model_that_hangs,
        serving.explainer_that_hangs,
        pytest.param(partial(serving.worker_killed, times=1), marks=pytest.mark.exhaustive),
        pytest.param(partial(serving.swap_to_broken, times=1), marks=pytest.mark.exhaustive),
        pytest.param(partial(serving.clients_vanish, thousands=1), marks=pytest.mark.exhaustive),
    ],
    ids=["raises", "hangs", "explainer", "killed", "swap", "vanish"],
)
def test_the_service_keeps_its_promise(fault: Callable[[Path], Finding], tmp_path: Path) -> None:
    finding = fault(tmp_path)
    assert not finding.broken, finding


def test_a_request_after_an_internal_error_is_answered_on_the_same_connection(
    tmp_path: Path,
) -> None:
    """It was closed after the error, under the next request."""
    home = make_home(tmp_path, fails_on_white=True)
    with serve(home, tmp_path / "log") as server:
        connection = HTTPConnection("127.0.0.1", server.http_port, timeout=HANG_S)
        statuses = []
        for image in (WHITE, IMAGE):
            connection.request("POST", "/classify", image, {"Content-Type": "image/png"})
            connection.auto_open = 0  # http.client would connect anew without a word
            reply = connection.getresponse()
            reply.read()
            statuses.append(reply.status)
            time.sleep(0.2)
        connection.close()
    assert statuses == [500, 200]
    assert "indices element out of data bounds" in (tmp_path / "log").read_text()
