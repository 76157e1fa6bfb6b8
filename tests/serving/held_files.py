"""A location of fsspec's whose writes can be held at a gate, or made to fail: `held://place`."""

from __future__ import annotations

import threading
from typing import Any

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

from testing.waiting import HANG_S


class HeldFileSystem(MemoryFileSystem):  # type: ignore[misc]  # fsspec has no types
    """In memory; what it does to files waits for `gate`, and raises `error` if there is one."""

    protocol = "held"
    store: dict[str, Any] = {}  # noqa: RUF012  # as fsspec has it
    pseudo_dirs = [""]  # noqa: RUF012
    gate = threading.Event()
    error: Exception | None = None
    waiting = 0
    writers: set[threading.Thread] = set()  # noqa: RUF012

    @classmethod
    def reset(cls) -> None:
        """Open the gate and empty the store, once those that waited at the gate have gone.

        A closed `Capture` abandons a writer that hangs, which would write into the next test.
        """
        cls.error = None
        cls.gate.set()
        for writer in cls.writers:
            writer.join(timeout=HANG_S)
        cls.writers.clear()
        cls.store.clear()
        cls.waiting = 0

    def pipe_file(self, path: str, value: bytes, **options: Any) -> None:
        if threading.current_thread().daemon:
            self.writers.add(threading.current_thread())
        type(self).waiting += 1
        assert self.gate.wait(timeout=HANG_S)
        type(self).waiting -= 1
        if self.error is not None:
            raise self.error
        super().pipe_file(path, value, **options)


fsspec.register_implementation("held", HeldFileSystem, clobber=True)
