"""Gives back what a process no longer needs, at the few moments when that is much."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress

from serving.engine.right_of_way import Courtesy, Traffic

_TRIM_S = 0.02  # what `trim_memory` takes after a VGG-19
_PATIENCE_S = 3.0  # how long it waits for a gap


def trim_memory() -> None:
    """After a model was loaded or dropped: half a gigabyte may be free, or held by garbage.

    Requests whose clients have gone leave cycles of exceptions and frames that hold the model they
    were for, and Python looks for those among old objects hardly ever. glibc keeps freed memory
    between what is still used; `malloc_trim` returns it to the system.
    """
    gc.collect()
    with suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def trim_between_requests(traffic: Traffic) -> None:
    """As `trim_memory`, with the beginning of a gap between requests: both of its parts stop
    everything else that needs Python or memory for some milliseconds."""
    Courtesy(traffic, _PATIENCE_S).wait_for_beginning(_TRIM_S)
    trim_memory()


def freeze_gc() -> None:
    """When everything is imported, and no model loaded: later collections don't look at it again,
    and take milliseconds. (What is looked at no more can't be found to be garbage either.)"""
    gc.collect()
    gc.freeze()
