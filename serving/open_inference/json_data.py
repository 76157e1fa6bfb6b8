"""Takes the `data` of tensors out of a JSON body, so that a parser sees only what is around it.

A parser makes an object of each element before anybody can count them: `[[],[],...]` takes thirty
times its size, with pydantic a hundred times. What is left without the data is small, or refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from serving.core.errors import BadRequest, TooLarge
from serving.core.requests import check_image_count
from serving.open_inference.base64_text import string_pieces

MAX_HEADER_BYTES = 65_536
_MAX_MEMBERS = 1_024
# Of an input's members: in the object, the list of inputs, the object of one.
_DEPTH = 3
_KEY = b'"data"'
_TO_VALUE = re.compile(rb"[ \t\r\n]{0,1000}:[ \t\r\n]{0,1000}(?=\[)")
_TO_STRING = re.compile(rb'[\[ \t\r\n]{0,1000}"')
_BETWEEN = re.compile(rb"[ \t\r\n]*(?:\][ \t\r\n]*)*(?:,[ \t\r\n]*(?:\[[ \t\r\n]*)*)?")
_MAX_BETWEEN = 1000


@dataclass(frozen=True)
class Data:
    """Where the data of a tensor lie, brackets included. `strings`: of each element, without its
    quotes; None: there are no strings among them."""

    start: int
    stop: int
    strings: list[tuple[int, int]] | None


@dataclass
class Split:
    """`header`: the JSON with `[place in data]` in place of each tensor's data."""

    header: bytes
    data: list[Data] = field(default_factory=list)


def take_out_data(body: bytes, end: int, max_strings: int) -> Split:
    """Split the JSON that is `body[:end]`. It need not be valid: who parses the header finds that.

    Args:
        max_strings: elements that one tensor may have as strings.

    Raises:
        TooLarge: more than MAX_HEADER_BYTES are left, or there are too many strings.
        BadRequest: data begin as they should and go on as they shouldn't.
    """
    return _Splitter(body, end, max_strings).split()


class _Splitter:
    def __init__(self, body: bytes, end: int, max_strings: int) -> None:
        self._body, self._end, self._max_strings = body, end, max_strings
        self._parts: list[bytes] = []
        self._size = 0
        self._depth = self._members = 0
        self._data: list[Data] = []

    def split(self) -> Split:
        position = 0
        while (quote := self._body.find(b'"', position, self._end)) >= 0:
            self._keep_gap(position, quote)
            stop = self._end_of_string(quote + 1)
            self._keep(quote, stop)
            position = stop
            if self._depth == _DEPTH and self._body[quote:stop] == _KEY:
                value = _TO_VALUE.match(self._body, stop, self._end)
                if value is not None:
                    position = self._take_out(stop, value.end())
        self._keep_gap(position, self._end)
        return Split(b"".join(self._parts), self._data)

    def _keep_gap(self, start: int, stop: int) -> None:
        self._keep(start, stop)
        gap = self._parts[-1]
        opened = gap.count(b"{") + gap.count(b"[")
        self._depth += opened - gap.count(b"}") - gap.count(b"]")
        self._members += opened + gap.count(b",")
        if self._members > _MAX_MEMBERS:
            raise TooLarge(
                f"the JSON has more than {_MAX_MEMBERS:,} members without the 'data' of its inputs"
            )

    def _keep(self, start: int, stop: int) -> None:
        self._size += stop - start
        if self._size > MAX_HEADER_BYTES:
            raise TooLarge(
                f"the JSON has more than {MAX_HEADER_BYTES:,} bytes without the 'data' of its "
                "inputs; shorten names, ids and parameters"
            )
        self._parts.append(self._body[start:stop])

    def _end_of_string(self, start: int) -> int:
        """Behind the closing quote."""
        quote = self._body.find(b'"', start, self._end)
        if quote < 0:
            raise _no_json()
        if self._body.find(b"\\", start, quote) < 0:
            return quote + 1
        for piece in string_pieces(self._body, start, self._end):
            start = piece.stop
        if self._body[start : start + 1] != b'"' or start >= self._end:
            raise _no_json()
        return start + 1

    def _take_out(self, key_end: int, start: int) -> int:
        self._keep(key_end, start)
        first = _TO_STRING.match(self._body, start, self._end)
        data = self._numbers(start) if first is None else self._strings(start, first.end())
        self._parts.append(b"[%d]" % len(self._data))
        self._data.append(data)
        return data.stop

    def _numbers(self, start: int) -> Data:
        """Up to the last bracket before what can't be among numbers."""
        ends = (self._body.find(mark, start, self._end) for mark in (b'"', b"}"))
        bound = min((end for end in ends if end >= 0), default=self._end)
        stop = self._body.rfind(b"]", start, bound) + 1
        if not stop:
            raise _no_json()
        return Data(start, stop, None)

    def _strings(self, start: int, first: int) -> Data:
        """Of `["..."]` or `[["..."], ...]`. first: behind the first quote."""
        strings: list[tuple[int, int]] = []
        depth = self._body.count(b"[", start, first)
        position = first
        while depth:
            stop = self._end_of_string(position)
            strings.append((position, stop - 1))
            check_image_count(len(strings), self._max_strings, " or more")
            between = _BETWEEN.match(self._body, stop, min(self._end, stop + _MAX_BETWEEN))
            assert between is not None, "it matches nothing as well"
            for place in range(stop, between.end()):
                depth += {91: 1, 93: -1}.get(self._body[place], 0)
                if not depth:
                    return Data(start, place + 1, strings)
            if self._body[between.end() : between.end() + 1] != b'"':
                raise _not_strings()
            if b"," not in self._body[stop : between.end()]:
                raise _not_strings()
            position = between.end() + 1
        raise _no_json()


def _no_json() -> BadRequest:
    return BadRequest("the body is not JSON (or its header length is wrong)")


def _not_strings() -> BadRequest:
    return BadRequest("the data of 'image' must be strings of base64, one an image")
