"""What `wrk` is told to send, to a real server."""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from benchmarks.serving.load import ONE_IN, closed_loop
from benchmarks.serving.v2 import Body

pytestmark = pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk isn't here")

USUAL = Body(b"usual \0 \xff", "image/jpeg", {"X-Number": "1"})
ALSO = Body(b'"also" \n', "image/png", {"X-Number": "2"})


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    seen: Counter[tuple[bytes, str | None, str | None]]

    def handle_error(self, *_: object) -> None:
        """wrk hangs up in the middle of a request when its time is over."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        sent = content, self.headers["Content-Type"], self.headers["X-Number"]
        self.server.seen[sent] += 1
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[_Server]:
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.seen = Counter()
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def _seen(server: _Server, also: Body | None) -> Counter[tuple[bytes, str | None, str | None]]:
    url = f"http://127.0.0.1:{server.server_port}/"
    load = closed_loop(url, USUAL.content, USUAL.content_type, 2, 1, USUAL.headers, also)
    assert load.requests > 0
    assert load.errors == 0
    return server.seen


def test_every_request_has_the_body_and_its_headers(server: _Server) -> None:
    assert [*_seen(server, None)] == [(USUAL.content, "image/jpeg", "1")]


def test_one_in_so_many_sends_the_other_body_with_its_own_headers(server: _Server) -> None:
    seen = _seen(server, ALSO)
    usual, also = (USUAL.content, "image/jpeg", "1"), (ALSO.content, "image/png", "2")
    assert {*seen} == {usual, also}
    # The draws are the same in each run, but how many there are depends on the machine.
    assert seen[also] / seen.total() == pytest.approx(1 / ONE_IN, abs=0.7 / ONE_IN)
