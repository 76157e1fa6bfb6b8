"""However the service is told to end, every process ends and both ports are free again."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from testing import patient
from testing.ports import free_port
from testing.server import ROOT, Server, serve, wait_until_ready
from testing.waiting import HANG_S, wait_until


def processes_of(server: Server) -> list[psutil.Process]:
    return [psutil.Process(server.process.pid), *server.children()]


def check_that_all_is_over(server: Server, processes: list[psutil.Process]) -> None:
    """No process is left, and a next service could have the ports."""
    server.process.wait(HANG_S)
    _, left = psutil.wait_procs(processes, timeout=HANG_S)
    assert not left, [process.cmdline() for process in left]
    for port in (server.http_port, server.grpc_port):
        with socket.create_server(("127.0.0.1", port)):
            pass


def send(pid: int, *numbers: signal.Signals) -> None:
    for number in numbers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


@contextlib.contextmanager
def starting(home: Path, log: Path, **settings: str) -> Iterator[Server]:
    """A service that isn't ready yet."""
    server = Server(subprocess.Popen(["sleep", "0"]), free_port(), free_port(), log)
    server.process.wait()
    environment = os.environ | {
        "BENTOML_HOME": str(home),
        "BENTOML_DO_NOT_TRACK": "True",
        "VGG19_GRPC_PORT": str(server.grpc_port),
        **settings,
    }
    command = [str(Path(sys.executable).with_name("bentoml")), "serve", "service:VGG19"]
    options = ["--host", "127.0.0.1", "--port", str(server.http_port)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command + options, cwd=ROOT, env=environment, stdout=output, stderr=output
        )
    try:
        yield Server(process, server.http_port, server.grpc_port, log)
    finally:
        if process.poll() is None:
            children: list[psutil.Process] = psutil.Process(process.pid).children(recursive=True)
            for child in children:
                child.kill()
            process.kill()
            process.wait()


TERM, HUP, INT, KILL = signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL
ENDS = {
    "term": (TERM,),
    "int": (INT,),
    "term hup": (TERM, HUP),
    "hup term": (HUP, TERM),
    "hup hup term": (HUP, HUP, TERM),
    "hup term hup": (HUP, TERM, HUP),
    "hup int hup": (HUP, INT, HUP),
}


_FIRST = ("term hup", "hup hup term")  # a lone SIGTERM: see test_service.py


@pytest.mark.parametrize(
    "numbers",
    [
        pytest.param(numbers, id=name, marks=[pytest.mark.exhaustive] * (name not in _FIRST))
        for name, numbers in ENDS.items()
    ],
)
def test_signals_close_together_end_the_service_in_peace(
    numbers: tuple[signal.Signals, ...], tiny_home: Path, tmp_path: Path
) -> None:
    with serve(tiny_home, tmp_path / "log") as server:
        processes = processes_of(server)
        send(server.process.pid, *numbers)
        check_that_all_is_over(server, processes)
    assert server.process.returncode == 0, (tmp_path / "log").read_text()


def test_a_hangup_alone_changes_nothing(tiny_home: Path, tmp_path: Path) -> None:
    with serve(tiny_home, tmp_path / "log") as server:
        workers = {child.pid for child in server.children()}
        for _ in range(20):
            send(server.process.pid, HUP)
            assert patient.get(f"{server.url}/readyz").status_code == 200
        assert {child.pid for child in server.children()} == workers


@pytest.mark.exhaustive
def test_signals_at_any_time_of_the_start_end_it(tiny_home: Path, tmp_path: Path) -> None:
    """Before there is a worker, while it loads, when it has just become ready."""
    draw = random.Random(4)
    for number in range(6):
        with starting(tiny_home, tmp_path / f"log{number}") as server:
            time.sleep(draw.uniform(0, 3))
            processes = [psutil.Process(server.process.pid)]
            with contextlib.suppress(psutil.NoSuchProcess):
                processes += processes[0].children(recursive=True)
            send(server.process.pid, *draw.choice(list(ENDS.values())))
            check_that_all_is_over(server, processes)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no parent-death signal")
@pytest.mark.exhaustive
@pytest.mark.parametrize("workers", ["1", "2"])
def test_workers_end_with_a_parent_that_is_killed(
    workers: str, tiny_home: Path, tmp_path: Path
) -> None:
    with serve(tiny_home, tmp_path / "log", VGG19_WORKERS=workers) as server:
        processes = processes_of(server)
        assert len(processes) == 1 + int(workers)
        send(server.process.pid, KILL)
        check_that_all_is_over(server, processes)
    with serve(tiny_home, tmp_path / "log") as server:  # and the next one starts
        assert patient.get(f"{server.url}/readyz").status_code == 200


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no parent-death signal")
def test_a_worker_that_hangs_ends_with_its_parent(tiny_home: Path, tmp_path: Path) -> None:
    with serve(tiny_home, tmp_path / "log") as server:
        processes = processes_of(server)
        processes[1].suspend()
        send(server.process.pid, KILL)
        check_that_all_is_over(server, processes)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no parent-death signal")
@pytest.mark.exhaustive
def test_workers_end_whenever_their_parent_is_killed(tiny_home: Path, tmp_path: Path) -> None:
    """Also before they could tell the kernel: while Python starts, imports, loads."""
    for number, moment in enumerate((0.0, 0.02, 0.2, 0.5, 1.0)):
        with starting(tiny_home, tmp_path / f"log{number}") as server:
            parent = psutil.Process(server.process.pid)
            wait_until(parent.children)
            children = parent.children()
            time.sleep(moment)
            send(server.process.pid, KILL)
            check_that_all_is_over(server, [parent, *children])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (TERM, TERM),
        pytest.param(INT, TERM, marks=pytest.mark.exhaustive),
        pytest.param(TERM, INT, marks=pytest.mark.exhaustive),
    ],
)
def test_a_second_signal_ends_what_hangs(
    first: signal.Signals, second: signal.Signals, tiny_home: Path, tmp_path: Path
) -> None:
    with serve(tiny_home, tmp_path / "log") as server:
        processes = processes_of(server)
        processes[1].suspend()
        send(server.process.pid, first)
        time.sleep(0.5)
        assert server.process.poll() is None  # it waits for the worker
        send(server.process.pid, second)
        check_that_all_is_over(server, processes)
    assert server.process.returncode == 128 + second


@pytest.mark.exhaustive
def test_what_hangs_is_killed_after_the_grace_period(tiny_home: Path, tmp_path: Path) -> None:
    with serve(tiny_home, tmp_path / "log", VGG19_SHUTDOWN_GRACE_S="0") as server:
        processes = processes_of(server)
        processes[1].suspend()
        send(server.process.pid, TERM)
        check_that_all_is_over(server, processes)
    assert server.process.returncode == 1
    assert "killing them" in (tmp_path / "log").read_text()


def test_of_two_services_on_the_same_ports_one_is_left(tiny_home: Path, tmp_path: Path) -> None:
    with serve(tiny_home, tmp_path / "log") as server:
        ports = {"VGG19_GRPC_PORT": str(server.grpc_port)}
        with starting(tiny_home, tmp_path / "other", **ports) as second:
            assert second.process.wait(HANG_S) != 0
        assert "gRPC can't listen on" in (tmp_path / "other").read_text()
        wait_until_ready(server)
