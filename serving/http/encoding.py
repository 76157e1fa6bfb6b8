"""Bodies that were compressed on their way (`Content-Encoding`), as tritonclient's
`request_compression_algorithm` does.

They are decoded piece by piece as they are read, so whoever reads compares the size that they
decode to with its limit, and stops there: a bomb is never there as a whole.
"""

from __future__ import annotations

import asyncio
import zlib
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.core.errors import TooLarge
from serving.http.errors import on_http_exception

ACCEPTED = "gzip, deflate"
_HEADER = b"content-encoding"
# "" and identity say that nothing was done; x-gzip is gzip's old name (RFC 9110, 8.4.1.3).
_PLAIN, _GZIP, _DEFLATE = ("", "identity"), ("gzip", "x-gzip"), "deflate"
_GZIP_BITS, _ZLIB_BITS, _RAW_BITS = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS
# What is decoded at once: a few milliseconds, in a thread.
_PIECE_BYTES = 1_000_000


class ContentEncoding:
    """Around an application that reads bodies as they are; what isn't compressed passes by."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        values = [value.decode("latin-1") for name, value in scope["headers"] if name == _HEADER]
        if not values:
            await self._app(scope, receive, send)
            return
        coding = ", ".join(values).strip().lower()
        if coding not in (*_PLAIN, *_GZIP, _DEFLATE):
            response = await on_http_exception(Request(scope), _unsupported(coding))
            await response(scope, receive, send)
            return
        if coding not in _PLAIN:
            limit = scope["app"].state.context.classifier.limits.max_request_bytes
            receive = _Decoded(receive, coding, limit).receive
            # The length is that of the body before it is decoded.
            kept = [
                pair for pair in scope["headers"] if pair[0] not in (_HEADER, b"content-length")
            ]
            scope = {**scope, "headers": kept}
        await self._app(scope, receive, send)


class _Decoded:
    """A body, decoded.

    Args:
        max_encoded_bytes: taken of the client; there are streams of any length that decode to
            nothing, which the limit of the reader would not end.
    """

    def __init__(self, receive: Receive, coding: str, max_encoded_bytes: int) -> None:
        self._receive = receive
        self._decoder = Decoder(coding)
        self._left = self._max_encoded_bytes = max_encoded_bytes
        self._more_body = True

    async def receive(self) -> Message:
        """The next piece of at most a megabyte."""
        if not self._more_body and self._decoder.is_idle:
            return await self._receive()  # that the client has gone
        while self._more_body and self._decoder.is_idle:
            message = await self._receive()
            if message["type"] != "http.request":
                return message
            self._more_body = message.get("more_body", False)
            self._take(message.get("body", b""))
        try:
            body = await asyncio.to_thread(self._decoder.decode)
            more_body = self._more_body or not self._decoder.is_idle
            if not more_body:
                self._decoder.check_end()
        except (zlib.error, EOFError) as error:
            raise _damaged(self._decoder.coding, error) from None
        return {"type": "http.request", "body": body, "more_body": more_body}

    def _take(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            raise TooLarge(
                f"the encoded body has {self._max_encoded_bytes - self._left:,} bytes or more, the "
                f"limit is {self._max_encoded_bytes:,} (VGG19_MAX_REQUEST_BYTES)"
            )
        self._decoder.feed(data)


class Decoder:
    """One of gzip (of any number of members) or deflate, with or without zlib's frame: RFC 9110
    means with, and some clients send it without."""

    def __init__(self, coding: str) -> None:
        self.coding = coding
        self._inflate: Any = None  # zlib gives its class no name
        self._input = b""
        self._was_full = False

    def feed(self, data: bytes) -> None:
        """When idle."""
        self._input = data

    @property
    def is_idle(self) -> bool:
        """Whether nothing more can be decoded of what was given."""
        return not self._input and not self._was_full

    def decode(self) -> bytes:
        """The next megabyte, or what there is.

        Raises:
            zlib.error: it isn't what it was said to be.
        """
        if self._input:
            self._begin()
        if self._inflate is None:
            return b""
        decoded: bytes = self._inflate.decompress(self._input, _PIECE_BYTES)
        self._input = self._inflate.unconsumed_tail or self._inflate.unused_data
        self._was_full = len(decoded) == _PIECE_BYTES  # then zlib may hold more
        return decoded

    def check_end(self) -> None:
        """Raise EOFError unless all of it was there; an empty body is one of nothing."""
        if self._inflate is not None and not self._inflate.eof:
            raise EOFError("its end is missing")

    def _begin(self) -> None:
        """With the stream, or with gzip's next member."""
        if self._inflate is None or (self._inflate.eof and self.coding != _DEFLATE):
            self._inflate = zlib.decompressobj(self._bits())
        elif self._inflate.eof:
            raise zlib.error("something follows its end")

    def _bits(self) -> int:
        if self.coding != _DEFLATE:
            return _GZIP_BITS
        method, check = self._input[0] & 15, int.from_bytes(self._input[:2])
        is_framed = method == zlib.DEFLATED and (check % 31 == 0 or len(self._input) == 1)
        return _ZLIB_BITS if is_framed else _RAW_BITS


def _unsupported(coding: str) -> HTTPException:
    return HTTPException(
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        f"the content encoding is '{coding[:50]}'; send gzip or deflate, one of them, or the body "
        "as it is",
        {"Accept-Encoding": ACCEPTED},  # RFC 9110, 15.5.16
    )


def _damaged(coding: str, error: Exception) -> HTTPException:
    return HTTPException(
        HTTPStatus.BAD_REQUEST,
        f"the body is not the {coding} that its Content-Encoding says it is ({error})",
        {"Connection": "close"},
    )
