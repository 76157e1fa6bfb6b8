"""A process that ends with its parent, however that ended (Linux).

    python -I -S serving/parent_death.py PARENT FD COMMAND...

tells the kernel, then FD, by a byte, and becomes COMMAND: what the kernel was told outlives `exec`.
Imports nothing of the project, so that it takes milliseconds.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def be_killed_with(parent: int) -> None:
    """Have the kernel kill this process when its parent has ended (Linux).

    Args:
        parent: the process that started this one.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it went before the kernel was told
        os._exit(1)


def _main() -> None:
    parent, told, *command = sys.argv[1:]
    be_killed_with(int(parent))
    os.write(int(told), b"1")
    os.close(int(told))
    os.execv(command[0], command)


if __name__ == "__main__":
    _main()
