"""Upgrades that aren't taken, where httptools reads requests.

curl's `--http2` and Java's client ask for `Upgrade: h2c` with every first request. llhttp, which
httptools wraps, takes what follows the head of such a request for another protocol: the body was
lost, or read as the next request, which is a way to smuggle one past a proxy.
"""

from __future__ import annotations

from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.http.connections import Connection


class HttpTools(Connection, HttpToolsProtocol):  # type: ignore[misc]  # see there
    """With httptools, where the head of a request that asks for an upgrade is read once more,
    without asking, by a parser that then takes the body for its body."""

    parser: Any  # httptools.HttpRequestParser
    headers: list[tuple[bytes, bytes]]

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        unread = memoryview(data)  # a client may send many such requests at once: nothing is copied
        try:
            while unread:
                unread = self._feed(unread)
        except httptools.HttpParserError:
            self._refuse()

    def on_headers_complete(self) -> None:
        if not self.parser.should_upgrade():
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        # Of a head that is read again, httptools tells the end at once, and nothing of a body.
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def _feed(self, data: memoryview) -> memoryview:
        """What is still to be read."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            (end_of_head,) = upgrade.args
            return self._read_again(data[end_of_head:])
        return memoryview(b"")

    def _read_again(self, rest: memoryview) -> memoryview:
        method, version = self.parser.get_method(), self.parser.get_http_version()
        if method == b"CONNECT":  # it has no body: what follows is for whom it would connect to
            self._refuse()
            return memoryview(b"")
        lines = [b"%s %s HTTP/%s" % (method, self.url, version.encode())]
        lines += [b"%s: %s" % header for header in _without_upgrade(self.headers)]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self.parser.feed_data(b"\r\n".join([*lines, b"", b""]))
        return rest

    def _refuse(self) -> None:
        message = "Invalid HTTP request received."
        self.logger.warning(message)
        self.send_400_response(message)


def _without_upgrade(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    kept = []
    for name, value in headers:
        if name == b"upgrade":
            continue
        if name == b"connection":
            tokens = [token.strip() for token in value.split(b",")]
            others = [token for token in tokens if token.lower() != b"upgrade"]
            kept.append((name, b", ".join(others)))
        else:
            kept.append((name, value))
    return kept
