"""Ports for the servers that tests and benchmarks start."""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path

# Below the range from which systems take the ports of outgoing connections (Linux: 32768 to
# 60999, RFC 6335: 49152 to 65535): a port that `bind(0)` gives is of that range, and a client of
# another test can hold it by the time that the server has loaded its model.
RANGE = range(20_000, 32_000)
_held: list[int] = []  # descriptors of the locks


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens at, and that no other caller is given.

    Its lock lasts as long as this process, so that test workers side by side never choose the
    same port between the choice and the server's `bind`.

    Raises:
        RuntimeError: every port of `RANGE` is taken.
    """
    locks = Path(tempfile.gettempdir()) / f"vgg19-test-ports-{os.getuid()}"
    locks.mkdir(exist_ok=True)
    for port in random.sample(RANGE, len(RANGE)):
        lock = os.open(locks / str(port), os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            os.close(lock)
            continue
        _held.append(lock)
        return port
    raise RuntimeError(f"no port of 127.0.0.1 from {RANGE.start} to {RANGE.stop - 1} is free")
