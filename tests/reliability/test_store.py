from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from models.registry import store
from reliability import killing
from reliability.outcomes import FAILED, BrokenPromiseError, Outcome, report
from reliability.store import COMMANDS, _check_store, _in_store, _set_scene
from testing.server import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:This process:DeprecationWarning"),
]  # fork, threads


def test_a_store_survives_sigkill() -> None:
    """At a few of the steps; `python -m reliability.store` tries all.

    In a process of its own, which forks: PyTorch's threads in this one would not survive that.
    """
    command = [sys.executable, "-m", "reliability.store", "--every", "9"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count(" 0 failed") == len(COMMANDS)


def test_half_a_version_would_be_noticed(tmp_path: Path) -> None:
    scene = _set_scene(tmp_path / "scene", "register")
    with _in_store(scene.home):
        version = store.resolve("latest")
    (scene.home / "models" / "vgg19" / version / "model.yaml").unlink()
    with pytest.raises(BrokenPromiseError, match="versions are"):
        _check_store(scene)


def test_every_change_of_a_file_is_a_step(tmp_path: Path) -> None:
    def change() -> None:
        (tmp_path / "made").mkdir()
        (tmp_path / "made" / "file").write_text("text")
        os.replace(tmp_path / "made" / "file", tmp_path / "file")  # noqa: PTH105
        (tmp_path / "file").unlink()
        (tmp_path / "made").rmdir()

    steps = 1
    while killing.killed(change, steps):
        for name in ("made/file", "file"):
            (tmp_path / name).unlink(missing_ok=True)
        if (tmp_path / "made").exists():
            (tmp_path / "made").rmdir()
        steps += 1
    assert steps - 1 == 6  # the five, and the end
    assert killing.in_child(lambda: os.kill(os.getpid(), signal.SIGKILL)) == -signal.SIGKILL


def test_one_broken_promise_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    kept = Outcome("resumed identical", "killed in write 1")
    assert report("SIGKILL", [kept, kept])
    assert not report("SIGKILL", [kept, Outcome(FAILED, "the weights differ")])
    assert "SIGKILL: 2 tried, 1 failed, 1 resumed identical" in capsys.readouterr().out
