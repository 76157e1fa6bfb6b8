from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.errors import UserError
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


def test_commands_are_asked_for_when_the_one_before_has_ended(tmp_path: Path) -> None:
    made = tmp_path / "made"

    def commands() -> Iterator[list[str]]:
        yield [sys.executable, "-c", f"open({str(made)!r}, 'w').close()"]
        yield [sys.executable, "-c", f"print({made.exists()})"]
        raise UserError("the store is gone")

    jobs = Jobs({"job": commands}, tmp_path / "labels.csv", tmp_path / "jobs.log")
    jobs.start("job", b"")
    jobs.wait()
    last = jobs.describe()["last"]
    assert (last["state"], last["lines"]) == ("failed", ["True", "the store is gone"])


def test_a_name_that_is_no_utf_8_does_not_stop_a_job(tmp_path: Path) -> None:
    jobs = make(tmp_path, [*LINES[0], "caf\udce9"])
    jobs.start("job", b"")
    jobs.wait()
    last = jobs.describe()["last"]
    assert (last["state"], last["step"][-7:]) == ("done", "caf\\xe9")


def test_an_exit_code_that_is_no_failure_is_told_in_words(tmp_path: Path) -> None:
    endings = {"job": {3: "refused by the gate"}, "other": {0: "never"}}
    commands = {"job": lambda: [FAILS, LINES[0]], "other": lambda: [FAILS]}
    jobs = Jobs(commands, tmp_path / "labels.csv", tmp_path / "jobs.log", endings)
    ends = []
    for name in commands:
        jobs.start(name, b"")
        jobs.wait()
        last = jobs.describe()["last"]
        ends.append((last["state"], last["lines"][1]))
    assert ends[0] == ("ended", "refused by the gate")
    assert ends[1][0] == "failed"
