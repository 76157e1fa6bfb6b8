"""CPU time and memory of a server: its process with all descendants; of this process."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import psutil

from serving.engine.memory import trim_memory

_STOP_S = 20
_SETTLE_S = 60
_IDLE_S, _IDLE_SHARE = 0.5, 0.3  # below so much of a core, it is idle (Ray's own chatter included)


def cpu_seconds_of_others() -> float:
    """CPU time so far of this machine, without this process and its children that have ended."""
    machine, own = psutil.cpu_times(), psutil.Process().cpu_times()
    mine = own.user + own.system + own.children_user + own.children_system
    return float(machine.user + machine.nice + machine.system - mine)


def anonymous_mb() -> float:
    """Memory of this process that no file backs; weights that are mapped are in the page cache."""
    trim_memory()
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Anonymous:")) / 1e3


class Unseen:
    """Stands for the processes of a server that somebody else started: nothing is known of them."""

    def is_running(self) -> bool:
        return True

    def cpu_seconds(self) -> float:
        return 0.0

    def settle(self) -> None:
        time.sleep(_IDLE_S)

    def pss_bytes(self) -> int:
        return 0


class Tree:
    """A process and its descendants.

    Args:
        pid: of the process that was started.
    """

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)

    def is_running(self) -> bool:
        try:
            return bool(self._root.status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False

    def processes(self) -> list[psutil.Process]:
        try:
            return [self._root, *self._root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def cpu_seconds(self) -> float:
        """User and system time so far of the processes that live."""
        total = 0.0
        for process in self.processes():
            with suppress(psutil.Error):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def settle(self) -> None:
        """Wait until it does next to nothing, a minute at most."""
        deadline = time.monotonic() + _SETTLE_S
        while time.monotonic() < deadline:
            before = self.cpu_seconds()
            time.sleep(_IDLE_S)
            if self.cpu_seconds() - before < _IDLE_SHARE * _IDLE_S:
                return

    def pss_bytes(self) -> int:
        """Resident memory; what processes share is counted once."""
        total = 0
        for process in self.processes():
            with suppress(psutil.Error):
                total += process.memory_full_info().pss
        return total

    def stop(self) -> None:
        """End the process group politely, then whatever is left of the tree by force."""
        processes = self.processes()
        with suppress(ProcessLookupError):
            os.killpg(self._root.pid, signal.SIGTERM)
        try:
            psutil.wait_procs(processes, timeout=_STOP_S)
        finally:  # Ctrl-C while waiting, too; some frameworks' workers survive their parent
            for process in processes:
                with suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(processes, timeout=_STOP_S)
