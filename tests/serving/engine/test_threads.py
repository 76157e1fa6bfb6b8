"""Which threads go first, by their priorities: no clock is asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from threading import Thread, current_thread, get_native_id

import pytest

from models.bundle.bundle import inspect_bundle
from models.bundle.variants import CpuEngine
from serving.engine import session
from serving.engine.choice import Choice
from serving.engine.options import SessionOptions
from serving.engine.providers import CPU, CUDA, ProviderChoice
from serving.engine.right_of_way import Traffic
from serving.engine.threads import in_background, shared_pool

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities on Linux")


def niceness() -> int:
    """Of the thread that asks."""
    return os.getpriority(os.PRIO_PROCESS, get_native_id())


def lower(niceness: int) -> int:
    return min(niceness + 10, 19)


def test_work_in_the_background_gives_way_and_its_caller_does_not() -> None:
    before = niceness()
    assert in_background(niceness, "load") == lower(before)
    assert niceness() == before


def test_threads_that_it_starts_give_way_as_well() -> None:
    seen: list[int] = []

    def work() -> None:
        thread = Thread(target=lambda: seen.append(niceness()))
        thread.start()
        thread.join()

    in_background(work, "load")
    assert seen == [lower(niceness())]


def test_it_keeps_no_process_alive() -> None:
    assert in_background(lambda: (current_thread().name, current_thread().daemon), "a load") == (
        "a load", True
    )  # fmt: skip


def test_what_is_raised_there_is_raised_here() -> None:
    def fail() -> None:
        raise KeyError("gone")

    with pytest.raises(KeyError, match="gone"):
        in_background(fail, "load")


def test_where_no_thread_may_have_another_priority_work_is_done_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: int) -> None:
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr(os, "setpriority", refuse)
    assert in_background(niceness, "load") == niceness()
    assert "Operation not permitted" in caplog.text


def test_a_session_of_one_thread_starts_none() -> None:
    assert shared_pool.share(1)


@pytest.mark.parametrize(
    ("provider", "engine", "gives_way"),
    [
        (CPU, "onnxruntime", True),
        (CPU, "openvino", False),  # the threads that it starts are those that answer requests
        (CPU, "ncnn", False),
        (CUDA, None, False),
    ],
)
def test_a_model_is_loaded_in_the_background_if_that_starts_no_thread(
    tiny_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    provider: str,
    engine: CpuEngine | None,
    gives_way: bool,
) -> None:
    chosen: list[ProviderChoice] = [(provider, {})]
    options = SessionOptions(chosen, None, intra_op_threads=1, max_batch_size=1)
    monkeypatch.setattr(session, "what_to_run", lambda *_: Choice(None, engine))
    monkeypatch.setattr(session, "Session", lambda *_: niceness())
    bundle, usual = inspect_bundle(tiny_bundle), niceness()
    expected = lower(usual) if gives_way else usual
    assert session.checked_session(bundle, options, Traffic()) == expected
    assert session.checked_session(bundle, options) == usual  # there are no requests


# Loads models beside requests as a service does, and prints how many threads there are after each,
# how much they give way, and whether another count of threads can be had from the pool. A thread
# that has been joined may be listed for an instant.
_LOAD = """
import json, os, sys, time
from pathlib import Path
from models.bundle.bundle import inspect_bundle
from serving.engine.options import SessionOptions
from serving.engine.right_of_way import Traffic
from serving.engine.session import checked_session
from serving.engine.threads import shared_pool

def niceness():
    return [os.getpriority(os.PRIO_PROCESS, int(name)) for name in os.listdir("/proc/self/task")]

usual = os.getpriority(os.PRIO_PROCESS, 0)
options = SessionOptions([("CPUExecutionProvider", {})], None, 3, 1)
bundle, sessions, counts = inspect_bundle(Path(sys.argv[1])), [], []
for _ in range(3):
    sessions.append(checked_session(bundle, options, Traffic()))
    sessions[-1].run(list(bundle.golden().images[:1]))
    for _ in range(100):
        if set(nice := niceness()) == {usual}:
            break
        time.sleep(0.05)
    counts.append(len(nice))
print(json.dumps({"counts": counts, "same": set(nice) == {usual}, "others": shared_pool.share(4)}))
"""


def test_models_share_threads_which_do_not_give_way(tiny_bundle: Path) -> None:
    """In an interpreter of its own, since the pool is the process's."""
    command = [sys.executable, "-c", _LOAD, str(tiny_bundle)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert len(set(found["counts"])) == 1  # a second model has added none
    assert found["same"]
    assert not found["others"]
