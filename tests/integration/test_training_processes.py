"""Training in processes of its own: killed and resumed, ended by SIGTERM, and on two processes.

With a thin VGG-19: what is shown doesn't depend on the layers' width.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from testing.images import write_image_folder
from testing.ports import free_port
from testing.server import ROOT
from testing.waiting import HANG_S
from training.loop.checkpoint import weights_digest

COMMON = ["--weights", "none", "--image-size", "32", "--strategy", "head"]


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts `vgg19` or a launcher in `tmp_path`. What a test that fails leaves behind is killed,
    with its children: it would train beside all tests that follow."""
    started: list[subprocess.Popen[str]] = []

    def start_(*arguments: str, launcher: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        command = [*launcher, *(() if launcher else ("testing.thin_cli",)), *arguments]
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield start_
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    return output


@pytest.mark.exhaustive
def test_killed_at_a_random_moment_and_resumed_ends_bit_identical(
    start: Start, tmp_path: Path
) -> None:
    write_image_folder(tmp_path / "data", {"blue": 12, "red": 12})
    (tmp_path / "c.yaml").write_text("save_every_steps: 2\nunfreeze: [features.34]\n")
    arguments = [
        "train", "--data", "data", *COMMON, "--config", "c.yaml", "--epochs", "2",
        "--batch-size", "6",
    ]  # fmt: skip
    finish(start(*arguments, "--output", "whole"))

    randomness = random.Random(time.time_ns())
    process = start(*arguments, "--output", "killed")
    # From the moment that there is something to resume, at any later one.
    while not (tmp_path / "killed" / "checkpoints" / "state.pt").exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    time.sleep(randomness.uniform(0, 3))
    process.kill()
    process.communicate()
    if not (tmp_path / "killed" / "report.html").exists():  # or it was finished
        finish(start("train", "--resume", "killed"))

    for name in ("best.safetensors", "last.safetensors"):
        whole, killed = (tmp_path / run / "checkpoints" / name for run in ("whole", "killed"))
        assert weights_digest(whole) == weights_digest(killed)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (signal.SIGTERM, "terminated"),
        pytest.param(signal.SIGINT, "interrupted", marks=pytest.mark.exhaustive),
        pytest.param(signal.SIGHUP, "the terminal was closed", marks=pytest.mark.exhaustive),
    ],
)
def test_signals_save_and_end_it_but_not_those_that_were_ignored(
    number: signal.Signals, words: str, start: Start, tmp_path: Path
) -> None:
    write_image_folder(tmp_path / "data", {"blue": 40, "red": 40})
    arguments = ["--data", "data", *COMMON, "--epochs", "50", "--batch-size", "4"]
    stopped = start("train", *arguments, "--output", "run")
    with ignoring(signal.SIGINT, signal.SIGHUP):  # as nohup, and a shell for what ends with &
        ignorant = start("train", *arguments, "--output", "other")
    for run, process in (("run", stopped), ("other", ignorant)):
        while not (tmp_path / run / "metrics.json").exists():  # an epoch is done
            assert process.poll() is None
            time.sleep(0.05)
    ignorant.send_signal(number)
    stopped.send_signal(number)
    output, _ = stopped.communicate(timeout=HANG_S)
    assert stopped.returncode == 128 + number
    assert f"{words}; continue with 'vgg19 train --resume run'" in output
    assert (tmp_path / "run" / "checkpoints" / "state.pt").exists()
    if number == signal.SIGTERM:
        assert ignorant.wait(HANG_S) == 143
    else:
        assert ignorant.poll() is None
        ignorant.kill()
    ignorant.communicate()


@contextmanager
def ignoring(*numbers: signal.Signals) -> Iterator[None]:
    """What is started here ignores these signals."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


# Each process tells in a file of its own what isn't in its output: torchrun starts both unbuffered
# on one pipe, where the lines that they print get mixed.
COUNTING = """
import atexit, os
from pathlib import Path
import torch.distributed
from testing import thin_cli
from training.data import checks

check = checks._check_file

def counted(*arguments):
    with open(f"checked-{os.environ['RANK']}", "a") as file:
        file.write("x")
    return check(*arguments)

checks._check_file = counted

def tell_group():
    there = torch.distributed.is_initialized()
    Path("group-" + os.environ["RANK"]).write_text("left behind" if there else "ended")

atexit.register(tell_group)
thin_cli.main()
"""


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("precision", "atol"),
    [
        ("no", 1e-5),
        # The gradient of a convolution in bf16, rounded once or once by each process: weights that
        # move by 7e-4 here end up 8e-5 from where float32 takes them.
        ("bf16", 2e-4),
    ],
)
def test_two_processes_train_as_one_does(
    start: Start, tmp_path: Path, precision: str, atol: float
) -> None:
    """At the same global batch; of 21 images in batches of 20, one process has none of the last."""
    write_image_folder(tmp_path / "data" / "train", {"blue": 11, "red": 10})
    write_image_folder(tmp_path / "data" / "val", {"blue": 3, "red": 2}, first_seed=100)
    (tmp_path / "c.yaml").write_text(
        "dropout: 0.0\noptimizer: sgd\nunfreeze: [features.34]\nclass_weights: balanced\n"
        f"learning_rate: 0.01\nbatch_size: 20\nmixed_precision: '{precision}'\n"
    )
    arguments = ["train", "--data", "data", *COMMON, "--config", "c.yaml", "--epochs", "1"]
    alone = finish(start(*arguments, "--output", "one"))
    torchrun = (
        "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1",
        "--master-port", str(free_port()), str(tmp_path / "counting.py"),
    )  # fmt: skip
    (tmp_path / "counting.py").write_text(COUNTING)
    together = finish(start(*arguments, "--output", "two", launcher=torchrun))

    one, two = (
        load_file(tmp_path / run / "checkpoints" / "last.safetensors") for run in ("one", "two")
    )
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=atol, rtol=0, msg=name)
    moved = (one["classifier.6.weight"] - one["classifier.6.weight"].mean()).abs().max()
    assert moved > 1e-3
    line = next(line for line in alone.splitlines() if line.startswith("epoch 1/1"))
    same = next(line for line in together.splitlines() if line.startswith("epoch 1/1"))
    assert line == same  # losses and accuracies, all ranks'
    assert together.count("epoch 1/1") == 1  # only one process tells
    # NCCL warns of a group that a process leaves behind.
    groups = {path.name: path.read_text() for path in tmp_path.glob("group-*")}
    assert groups == {"group-0": "ended", "group-1": "ended"}
    # One looks at all images before training, for both.
    assert sorted(path.name for path in tmp_path.glob("checked-*")) == ["checked-0"]
    assert len((tmp_path / "checked-0").read_text()) == 26
    assert "on cpu x 2" in together
