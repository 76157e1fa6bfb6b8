"""A real HTTP server that receives events, and answers as it is told."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

# What it does with a request; the last one is done from then on.
OK, HANG, DRIP, CLOSE, NO_HTTP = "204", "hang", "drip", "close", "no http"


class Receiver:
    """Attributes: `events` it has answered with 2xx, in their order; `requests`: all of them."""

    def __init__(
        self, answers: list[str], port: int = 0, tls: ssl.SSLContext | None = None
    ) -> None:
        self.answers = answers
        self.events: list[dict[str, Any]] = []
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.released = Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        self._thread = Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?x=1"

    @property
    def numbers(self) -> list[int]:
        return [event["data"]["number"] for event in self.events]

    def stop(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _handler(receiver) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.requests.append((self.path, dict(self.headers), body))
                answers = receiver.answers
                answer = answers.pop(0) if len(answers) > 1 else answers[0]
                with suppress(ConnectionError):  # of who waits no longer
                    if answer.startswith("2"):  # before who waits for the answer looks
                        receiver.events.append(json.loads(body))
                    self._answer(answer)

            def _answer(self, answer: str) -> None:
                if answer == HANG:
                    receiver.released.wait()
                elif answer == DRIP:
                    while not receiver.released.wait(0.05):
                        self.wfile.write(b"H")
                elif answer == NO_HTTP:
                    self.wfile.write(b"SSH-2.0-OpenSSH\r\n")
                elif answer != CLOSE:
                    status, _, header = answer.partition(" ")
                    self.send_response(int(status))
                    if header:
                        name, _, value = header.partition("=")
                        self.send_header(name, value)
                    self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        return Handler


@contextmanager
def receiver(*answers: str, port: int = 0, tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    running = Receiver(list(answers) or [OK], port, tls)
    try:
        yield running
    finally:
        running.stop()
