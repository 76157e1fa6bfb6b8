"""Pixels as numbers in JSON: a list, flat or nested, of whole numbers 0..255 -> uint8.

No Python object is made of a number: 16 images of 224 pixels are 2.4 million of them. The text is
looked at a piece at a time with NumPy, which lets go of the GIL meanwhile.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from serving.core.errors import BadRequest
from serving.core.tensors import PIXELS

_PIECE = 1 << 18
_MAX_DEPTH = 8

# Kinds of bytes; a number counts as one at its last digit.
_OTHER, _BLANK, _DIGIT, _COMMA, _OPEN, _CLOSE = range(6)
_KINDS = np.zeros(256, np.uint8)
_KINDS[list(b" \t\r\n")] = _BLANK
_KINDS[list(b"0123456789")] = _DIGIT
_KINDS[ord(",")] = _COMMA
_KINDS[ord("[")] = _OPEN
_KINDS[ord("]")] = _CLOSE
# What may follow what. In a list there is no empty place, so `[` `]` isn't among them.
_FOLLOWS = np.zeros((6, 6), np.bool_)
for _first, _seconds in {
    _DIGIT: (_COMMA, _CLOSE),
    _COMMA: (_DIGIT, _OPEN),
    _OPEN: (_DIGIT, _OPEN),
    _CLOSE: (_COMMA, _CLOSE),
}.items():
    _FOLLOWS[_first, list(_seconds)] = True


def count_numbers(text: memoryview) -> int:
    """How many numbers a list would have if it is one: nothing is built for the answer."""
    commas = 0
    for start in range(0, len(text), _PIECE):
        piece = np.frombuffer(text[start : start + _PIECE], np.uint8)
        commas += int(np.count_nonzero(piece == ord(",")))
    return commas + 1


def read_numbers(text: memoryview, count: int) -> NDArray[np.uint8]:
    """The numbers of a list with its brackets, of which there are `count`, flat.

    Raises:
        BadRequest: it is no list of whole numbers, 0..255.
    """
    values = np.empty(count, np.uint8)
    reader = _Reader()
    filled = start = 0
    while start < len(text):
        stop = _end_of_piece(text, start)
        found = reader.read(np.frombuffer(text[start:stop], np.uint8))
        if filled + found.size > count:
            raise _not_pixels()
        values[filled : filled + found.size] = found
        filled += found.size
        start = stop
    reader.finish()
    if filled != count:
        raise _not_pixels()
    return values


def _end_of_piece(text: memoryview, start: int) -> int:
    """Behind a number, so that none is cut in two."""
    stop = min(start + _PIECE, len(text))
    while stop < len(text) and stop - start < _PIECE + 4 and 48 <= text[stop] <= 57:
        stop += 1
    return stop


class _Reader:
    """What is known from one piece to the next: the last byte that counted, and the depth."""

    def __init__(self) -> None:
        self._last = _OTHER
        self._depth = 0

    def read(self, piece: NDArray[np.uint8]) -> NDArray[np.uint8]:
        kinds = _KINDS[piece]
        if not kinds.all():  # _OTHER: a sign, a point, a letter, a quote
            raise _not_pixels()
        digit = kinds == _DIGIT
        ends = digit.copy()
        ends[:-1] &= ~digit[1:]
        self._check_order(kinds[(kinds > _DIGIT) | ends])
        return _values(piece, digit, np.flatnonzero(ends))

    def finish(self) -> None:
        if self._last != _CLOSE or self._depth:
            raise _not_pixels()

    def _check_order(self, marks: NDArray[np.uint8]) -> None:
        if not marks.size:
            return
        if self._last == _OTHER:
            if marks[0] != _OPEN:
                raise _not_pixels()
        elif not self._depth or not _FOLLOWS[self._last, marks[0]]:  # without depth it has ended
            raise _not_pixels()
        steps = (marks == _OPEN).astype(np.int8) - (marks == _CLOSE)
        depth = self._depth + np.cumsum(steps, dtype=np.int32)
        if depth.max() > _MAX_DEPTH or depth[:-1].min(initial=1) < 1 or depth[-1] < 0:
            raise _not_pixels()
        if not _FOLLOWS[marks[:-1], marks[1:]].all():
            raise _not_pixels()
        self._last, self._depth = int(marks[-1]), int(depth[-1])


def _values(
    piece: NDArray[np.uint8], digit: NDArray[np.bool_], ends: NDArray[np.intp]
) -> NDArray[np.uint8]:
    """Of the numbers that end there: their ones, tens and hundreds."""
    # Three blanks in front: a number at the beginning has no digits before it.
    digits = np.concatenate([np.zeros(3, np.uint8), np.where(digit, piece - 48, 0)])
    is_digit = np.concatenate([np.zeros(3, np.bool_), digit])
    at = ends + 3
    has_tens = is_digit[at - 1]
    has_hundreds = has_tens & is_digit[at - 2]
    tens = digits[at - 1] * has_tens
    hundreds = digits[at - 2] * has_hundreds
    values = digits[at] + tens.astype(np.uint16) * 10 + hundreds.astype(np.uint16) * 100
    leading = np.where(has_hundreds, hundreds, np.where(has_tens, tens, 1))
    too_long = has_hundreds & is_digit[at - 3]
    if too_long.any() or (values > 255).any() or not leading.all():
        raise _not_pixels()
    pixels: NDArray[np.uint8] = values.astype(np.uint8)
    return pixels


def _not_pixels() -> BadRequest:
    return BadRequest(
        f"the data of '{PIXELS}' must be whole numbers, 0..255, in a list or nested lists"
    )
