"""A location of fsspec's whose writes can be held at a gate, or made to fail: `held://place`."""

from __future__ import annotations

import threading
from typing import Any

import fsspec
from fsspec.implementations.memory import MemoryFileSystem


class HeldFileSystem(MemoryFileSystem):  # type: ignore[misc]  # fsspec has no types
    """In memory; what it does to files waits for `gate`, and raises `error` if there is one."""

    protocol = "held"
    store: dict[str, Any] = {}  # noqa: RUF012  # as fsspec has it
    pseudo_dirs = [""]  # noqa: RUF012
    gate = threading.Event()
    error: Exception | None = None
    waiting = 0

    @classmethod
    def reset(cls) -> None:
        cls.store.clear()
        cls.gate.set()
        cls.error = None
        cls.waiting = 0

    def pipe_file(self, path: str, value: bytes, **options: Any) -> None:
        type(self).waiting += 1
        assert self.gate.wait(timeout=60)
        type(self).waiting -= 1
        if self.error is not None:
            raise self.error
        super().pipe_file(path, value, **options)


fsspec.register_implementation("held", HeldFileSystem, clobber=True)
