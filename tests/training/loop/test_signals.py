from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from testing.server import ROOT
from training.loop.signals import (
    StopRequest,
    Terminated,
    end_on_signals,
    resume_command,
    stop_on_signals,
)

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture
def before() -> Iterator[list[int]]:
    """The signals that reached the handlers from before the training."""
    heard: list[int] = []
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        signal.signal(number, lambda number, _: heard.append(number))
    yield heard
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted_and_told(
    number: signal.Signals, before: list[int], capfd: pytest.CaptureFixture[str]
) -> None:
    stop = StopRequest()
    with stop_on_signals(stop, tell=True):
        signal.raise_signal(number)
    assert (stop.requested, stop.number, before) == (True, number, [])
    told = capfd.readouterr().err
    assert "stopping: the state is saved after this step" in told
    assert ("Ctrl-C again quits at once" in told) == (number == signal.SIGINT)
    signal.raise_signal(number)
    assert before == [number]  # as it was


@pytest.mark.parametrize(
    ("numbers", "reached"),
    [
        ((signal.SIGINT, signal.SIGINT), [signal.SIGINT]),
        ((signal.SIGTERM, signal.SIGTERM), [signal.SIGTERM]),
        # Kernel and shell both send it when a terminal is closed.
        ((signal.SIGHUP, signal.SIGHUP), []),
        ((signal.SIGHUP, signal.SIGTERM), []),
        ((signal.SIGINT, signal.SIGTERM), []),
    ],
)
def test_the_same_again_does_what_it_did_before(
    numbers: tuple[int, int], reached: list[int], before: list[int]
) -> None:
    stop = StopRequest()
    with stop_on_signals(stop, tell=False):
        for number in numbers:
            signal.raise_signal(number)
        assert before == reached
    assert stop.number == numbers[0]


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.usefixtures("before")
def test_what_is_ignored_stays_ignored(number: signal.Signals, tmp_path: Path) -> None:
    signal.signal(number, signal.SIG_IGN)
    stop = StopRequest()
    with stop_on_signals(stop, tell=True), end_on_signals(tmp_path):
        signal.raise_signal(number)
        assert signal.getsignal(number) == signal.SIG_IGN
    assert not stop.requested
    assert signal.getsignal(number) == signal.SIG_IGN


@pytest.mark.parametrize(
    ("number", "words", "code"),
    [
        (signal.SIGINT, "interrupted", 130),
        (signal.SIGTERM, "terminated", 143),
        (signal.SIGHUP, "the terminal was closed", 129),
    ],
)
@pytest.mark.usefixtures("before")
def test_work_that_is_done_again_ends_at_once(
    number: signal.Signals, words: str, code: int
) -> None:
    with pytest.raises(Terminated) as ended, end_on_signals(Path("runs/x")):
        signal.raise_signal(number)
    assert str(ended.value) == f"{words}; continue with 'vgg19 train --resume runs/x'"
    assert ended.value.exit_code == code


@pytest.mark.parametrize("name", ["a b", "a'b", "a;b", "$HOME", "-x", "é"])
def test_what_is_told_to_be_typed_names_the_run_to_the_shell(name: str) -> None:
    assert shlex.split(resume_command(Path(name)))[-1] == name


@pytest.mark.usefixtures("before")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_loader_process_leaves_ctrl_c_to_its_parent_and_can_be_ended() -> None:
    stop = StopRequest()
    with stop_on_signals(stop, tell=True):
        child = os.fork()
        if child == 0:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGHUP)
            if not stop.requested:
                signal.raise_signal(signal.SIGTERM)
            os._exit(0)
        _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGTERM
    assert not stop.requested


@pytest.mark.parametrize("ignored", [(), (signal.SIGHUP,), (signal.SIGINT, signal.SIGHUP)])
def test_the_command_keeps_the_signals_ignored_that_its_parent_ignored(
    ignored: tuple[int, ...],
) -> None:
    """As nohup does it, and a shell without job control for what it starts with &."""
    program = (
        "import signal, sys, cli.main as m; m.app = lambda *_, **__: print(*[int(n) for n in "
        "(1, 2, 15) if signal.getsignal(n) == signal.SIG_IGN]); sys.argv = ['vgg19']; m.main()"
    )
    # By a shell, since Python code between fork and exec ends in an abort where libraries that
    # other tests have loaded run threads.
    trap = " ".join(str(int(number)) for number in ignored)
    start = f"trap '' {trap}; exec \"$@\"" if trap else 'exec "$@"'
    result = subprocess.run(
        ["sh", "-c", start, "sh", sys.executable, "-c", program],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert [int(number) for number in result.stdout.split()] == sorted(ignored)
