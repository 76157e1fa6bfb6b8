"""Two test workers never start servers at one port."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from testing import ports


def test_processes_side_by_side_are_given_different_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "RANGE", range(20_000, 20_040))
    script = (
        "import sys; from testing import ports; ports.RANGE = range(20_000, 20_040);"
        "print(*(ports.free_port() for _ in range(10)), flush=True); sys.stdin.read()"
    )
    root = Path(__file__).parents[2]
    other = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with other:
        assert other.stdout is not None
        theirs = [int(port) for port in other.stdout.readline().split()]
        ours = [ports.free_port() for _ in range(10)]
        other.communicate()
    assert len({*theirs, *ours}) == 20


def test_a_port_that_somebody_listens_at_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setattr(ports, "RANGE", range(port, port + 1))
        with pytest.raises(RuntimeError, match=str(port)):
            ports.free_port()


def test_the_ports_of_outgoing_connections_are_left_alone() -> None:
    text = Path("/proc/sys/net/ipv4/ip_local_port_range")
    first = int(text.read_text().split()[0]) if text.exists() else 32_768
    assert ports.RANGE.stop <= first
