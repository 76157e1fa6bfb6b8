"""A request costs memory and time in proportion to its bytes, over every transport and codec."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import grpc
import pytest

from testing import patient
from testing.waiting import HANG_S
from tests.serving.costly_requests import Costly, corpus
from tests.serving.watched_server import Watched, watched_server

_SIZE = 4_000_000
_MAX_FACTOR = 8
# Of threads, buffers and what the allocator keeps.
_SLACK_BYTES = 4_000_000
_MAX_LAG_S = 0.1
_TRIES = 3

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[Watched]:
    with watched_server(max_bytes=2 * _SIZE) as server:
        for costly in (c for c in corpus(100_000) if c.name.endswith("pixels")):
            send(server, costly)  # what is imported and made only once
        yield server


def send(server: Watched, costly: Costly) -> str:
    """What was said of it: a status or the name of a code."""
    if not costly.is_grpc:
        url = f"http://127.0.0.1:{server.http_port}{costly.path}"
        reply = patient.post(url, content=costly.body, headers=costly.headers)
        return str(reply.status_code)
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}", options) as channel:
        call = channel.unary_unary(costly.path, None, None).future(costly.body, timeout=HANG_S)
        return str(call.code().name)


@pytest.mark.parametrize("costly", corpus(_SIZE), ids=lambda costly: costly.name)
def test_memory_and_time_in_proportion(server: Watched, costly: Costly) -> None:
    lags = []
    for _ in range(_TRIES):
        server.forget()
        before = server.resident_bytes()
        said = send(server, costly)
        grown = server.peak_bytes() - before
        # An answer that is meant for this request: the server is there, and knows what is wrong.
        assert said in ("200", "400", "413", "422", "OK", "INVALID_ARGUMENT")
        assert grown <= _MAX_FACTOR * len(costly.body) + _SLACK_BYTES, f"{grown / 1e6:.0f} MB"
        lags.append(server.lag_s)
        if lags[-1] <= _MAX_LAG_S:
            return
    pytest.fail(f"the event loop stood still for {lags} s")
