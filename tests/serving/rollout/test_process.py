from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from threading import Timer

import psutil
import pytest

from serving.rollout.process import CandidateProcess, ProcessEnded
from testing.waiting import HANG_S, wait_until
from tests.serving.rollout.conftest import Command

LOOP = "ready()\nwhile True: hear(); answer()"


def test_it_is_asked_and_answers(command: Command) -> None:
    process = CandidateProcess(command(LOOP))
    assert set(process.wait()) == {"preprocessing", "stops_at_once"}
    assert process.ask({"label": "red"}, b"pixels" * 100_000)["confidence"] == 0.9
    assert process.ran_s == 0
    process.close()


@pytest.mark.parametrize(
    ("lines", "how"),
    [
        ("sys.exit(3)", "exit code 3"),
        # As where others keep the machine busy: it was killed, and that was told.
        ("connection.close(); time.sleep(0.5); sys.exit(3)", "exit code 3"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "ended by SIGSEGV"),
    ],
)
def test_how_it_ended_is_told(command: Command, lines: str, how: str) -> None:
    process = CandidateProcess(command(lines))
    with pytest.raises(ProcessEnded, match=how):
        process.wait()
    process.close()


@pytest.mark.parametrize(
    "lines",
    [
        "connection.send_bytes(b'not JSON'); time.sleep(600)",
        "connection.send_bytes(b'x' * 1_000_000); time.sleep(600)",
        "connection.close(); time.sleep(600)",
    ],
)
def test_what_is_of_no_use_is_killed(
    command: Command, lines: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.rollout.process._ENDING_S", 0.1)
    process = CandidateProcess(command(lines))
    with pytest.raises(ProcessEnded, match="ended by SIGKILL"):
        process.wait()
    process.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_ends_the_group_is_no_failure_of_it(command: Command, number: signal.Signals) -> None:
    process = CandidateProcess(command(LOOP))
    os.kill(process.pid, number)
    assert set(process.wait()) == {"preprocessing", "stops_at_once"}
    process.close()


def test_killed_while_it_is_waited_for(command: Command) -> None:
    process = CandidateProcess(command("ready(); hear(); time.sleep(600)"))
    process.wait()
    Timer(0.1, process.kill).start()
    with pytest.raises(ProcessEnded, match="SIGKILL"):
        process.ask({}, b"")
    process.kill()  # a second time changes nothing
    process.close()


def test_while_it_is_paused_nothing_is_counted_and_nothing_happens(command: Command) -> None:
    process = CandidateProcess(command("ready(); hear(); answer(); time.sleep(600)"))
    process.wait()
    process.pause()
    process.pause()
    since = time.monotonic()
    Timer(0.3, process.resume).start()
    process.ask({}, b"")
    assert time.monotonic() - since >= 0.3
    assert process.pauses == 1
    process.close()


def test_time_in_pauses_is_not_its_own(command: Command) -> None:
    process = CandidateProcess(command("time.sleep(600)"))
    process.pause()
    seen: list[float] = []

    def look_and_kill() -> None:
        seen.append(process.ran_s)
        process.kill()

    Timer(0.15, look_and_kill).start()
    with pytest.raises(ProcessEnded):
        process.wait()
    assert seen == [0.0]
    process.close()


# A worker that stops its candidate as soon as it can, as when requests are always under way.
_WORKER = """
import time
from serving.rollout.process import CandidateProcess, candidate_command
print(flush=True)
process = CandidateProcess(candidate_command("1", 1))
while True:
    process.pause()
    time.sleep(0.02)
    process.resume()
"""


def test_a_killed_worker_leaves_no_candidate() -> None:
    """At instants from before the candidate's first instruction until it imports."""
    workers = [
        subprocess.Popen([sys.executable, "-c", _WORKER], stdout=subprocess.PIPE) for _ in range(6)
    ]
    candidates = []
    for worker, instant_s in zip(workers, (0, 0.003, 0.01, 0.03, 0.1, 0.3), strict=True):
        assert worker.stdout is not None
        with worker.stdout:
            worker.stdout.readline()
        parent = psutil.Process(worker.pid)
        while not (found := parent.children()):
            time.sleep(0.001)
        time.sleep(instant_s)
        worker.kill()
        worker.wait()
        candidates += found
    _, left = psutil.wait_procs(candidates, timeout=HANG_S)
    for process in left:
        process.kill()
    assert not left


@pytest.mark.skipif(sys.platform != "linux", reason="a policy of Linux")
def test_all_its_threads_give_way(command: Command) -> None:
    lines = (
        "from threading import Thread, Event\nThread(target=Event().wait, daemon=True).start()\n"
        "ready(); hear()\n"
        "say(policies=[os.sched_getscheduler(int(one)) for one in os.listdir('/proc/self/task')])"
    )
    process = CandidateProcess(command(lines))
    process.wait()
    process.use_idle_time()
    assert process.ask({}, b"") == {"policies": [os.SCHED_IDLE] * 2}
    process.close()


@pytest.mark.skipif(sys.platform != "linux", reason="of /proc")
@pytest.mark.parametrize(("lines", "wants"), [("while True: pass", True), ("hear()", False)])
def test_who_hangs_in_a_wait_does_not_want_to_run(
    command: Command, lines: str, *, wants: bool
) -> None:
    process = CandidateProcess(command(f"ready(); {lines}" if not wants else f"ready()\n{lines}"))
    process.wait()
    wait_until(lambda: process.wants_to_run == wants and (process.cpu_s >= 0.05 or not wants))
    process.close()
    assert process.cpu_s == 0


def test_it_has_the_lowest_priority(command: Command) -> None:
    process = CandidateProcess(command("say(nice=os.nice(0))"))
    assert process.wait() == {"nice": 19}
    process.close()
