"""One event to its receiver: an HTTP POST, signed as Standard Webhooks says
(https://github.com/standard-webhooks/standard-webhooks, version 1.0.0).

http.client and not a larger client, because it does nothing that wasn't asked for: it follows no
redirects, asks no proxies and reads no body.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from threading import Timer
from urllib.parse import SplitResult

from models.events.event import MEDIA_TYPE, id_of

# To connect, and between two packets; and for the whole, which a receiver could else draw out.
_TIMEOUT_S, _WHOLE_S = 5.0, 15.0
_LONGEST_RETRY_AFTER = 6  # digits


@dataclass(frozen=True)
class Answer:
    """What a receiver said: its status, and how long it wants to be left alone (0: it doesn't
    say)."""

    status: int
    retry_after_s: float = 0.0

    @property
    def is_taken(self) -> bool:
        return 200 <= self.status < 300


def post(url: SplitResult, body: bytes, keys: Sequence[bytes]) -> Answer:
    """Send an event and wait for the head of the answer.

    Args:
        url: as `models.events.config.parse_url` gives it.
        body: an event in JSON; its id goes into the header that is signed.

    Raises:
        OSError: no answer came, or none of HTTP, or the certificate isn't the host's.
        NotAnEvent: the body is none; nothing was sent.
    """
    headers = {
        "Content-Type": MEDIA_TYPE,
        "User-Agent": "vgg19-finetune",
        "Connection": "close",
        **signature(id_of(body), int(time.time()), body, keys),
    }
    target = (url.path or "/") + (f"?{url.query}" if url.query else "")
    try:
        with _connected(url) as connection:
            connection.request("POST", target, body, headers)
            with connection.getresponse() as response:
                return Answer(response.status, _seconds(response.getheader("Retry-After", "")))
    except http.client.HTTPException as error:
        raise OSError(f"it doesn't speak HTTP ({type(error).__name__})") from None


def signature(
    message_id: str, timestamp: int, body: bytes, keys: Sequence[bytes]
) -> dict[str, str]:
    """The headers that prove who sent a message, and when: HMAC-SHA256 of `ID.TIMESTAMP.BODY`, with
    each key.

    Args:
        timestamp: seconds since 1970; receivers refuse what is older than some minutes.
    """
    signed = f"{message_id}.{timestamp}.".encode() + body
    digests = [hmac.new(key, signed, hashlib.sha256).digest() for key in keys]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{base64.b64encode(one).decode()}" for one in digests),
    }


@contextmanager
def _connected(url: SplitResult) -> Iterator[http.client.HTTPConnection]:
    """A connection that is shut after `_WHOLE_S`, whatever it is at then: timeouts of sockets begin
    anew with each byte."""
    is_https = url.scheme == "https"
    host, port = url.hostname or "", url.port or (443 if is_https else 80)
    kind = http.client.HTTPSConnection if is_https else http.client.HTTPConnection
    with socket.create_connection((host, port), _TIMEOUT_S) as plain, plain.dup() as handle:
        timer = Timer(_WHOLE_S, _shut, [handle])
        timer.daemon = True
        timer.start()
        try:
            with closing(kind(host, port)) as connection:
                connection.sock = (
                    ssl.create_default_context().wrap_socket(plain, server_hostname=host)
                    if is_https
                    else plain
                )
                yield connection
        finally:
            timer.cancel()


def _shut(handle: socket.socket) -> None:
    with suppress(OSError):  # it has ended by itself
        handle.shutdown(socket.SHUT_RDWR)


def _seconds(retry_after: str) -> float:
    """Of a `Retry-After` in seconds; a date counts as none."""
    text = retry_after.strip()
    return float(text) if text.isdecimal() and len(text) <= _LONGEST_RETRY_AFTER else 0.0
