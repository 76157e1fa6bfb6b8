from __future__ import annotations

import sys
from pathlib import Path

import pytest

from review.desk import NotNow
from training.review.jobs import Jobs

LINES = [[sys.executable, "-c", f"print('step {number}')"] for number in (1, 2)]
FAILS = [sys.executable, "-c", "import sys; print('no disk'); sys.exit(3)"]
SLEEPS = [sys.executable, "-c", "import time; print('on', flush=True); time.sleep(60)"]


def make(tmp_path: Path, *commands: list[str]) -> Jobs:
    return Jobs({"job": lambda: commands}, tmp_path / "labels.csv", tmp_path / "jobs.log")


def test_its_commands_run_one_after_another(tmp_path: Path) -> None:
    jobs = make(tmp_path, *LINES)
    assert jobs.describe() == {"names": ["job"], "last": None}
    jobs.start("job", b"path,label\n")
    jobs.wait()
    assert (tmp_path / "labels.csv").read_bytes() == b"path,label\n"
    last = jobs.describe()["last"]
    assert (last["state"], last["lines"]) == ("done", ["step 1", "step 2"])
    assert (tmp_path / "jobs.log").read_text().count("$ ") == 2


def test_one_that_fails_is_the_last(tmp_path: Path) -> None:
    jobs = make(tmp_path, FAILS, LINES[0])
    jobs.start("job", b"")
    jobs.wait()
    last = jobs.describe()["last"]
    assert last["state"] == "failed"
    assert last["lines"][0] == "no disk"
    assert "exit code 3" in last["lines"][1]
    missing = make(tmp_path, ["no-such-command-here"])
    missing.start("job", b"")
    missing.wait()
    assert missing.describe()["last"]["state"] == "failed"


def test_one_at_a_time_and_ended_with_the_page(tmp_path: Path) -> None:
    jobs = make(tmp_path, SLEEPS)
    jobs.start("job", b"")
    with pytest.raises(NotNow, match="'job' is running"):
        jobs.start("job", b"")
    with pytest.raises(NotNow, match="no job 'other'"):
        jobs.start("other", b"")
    jobs.close()
    assert jobs.describe()["last"]["state"] == "failed"
