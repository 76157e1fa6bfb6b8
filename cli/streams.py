"""Output that may lose its reader before the work is done."""

from __future__ import annotations

import errno
import os
from typing import Any, TextIO

# Of a terminal that was closed, and of a pipe whose reader has ended: Ctrl-C ends `tee` as well.
_GONE = (errno.EIO, errno.EPIPE)


class LastingStream:
    """A text stream; once nobody can read it any more, what is written goes nowhere."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._let_go(error)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._let_go(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _let_go(self, error: OSError) -> None:
        """The descriptor leads nowhere from now on, for whoever else writes to it, Python at its
        end included."""
        if error.errno not in _GONE:
            raise error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
