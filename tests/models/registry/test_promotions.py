from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models.errors import StoreError
from models.registry import promotions
from models.registry.promotions import History


@pytest.fixture
def log(tmp_path: Path) -> History:
    return History(tmp_path)


def test_an_empty_history(log: History) -> None:
    assert log.current_version() is None
    assert log.token() is None
    assert log.promotions() == []
    assert log.previous() is None


def test_each_promotion_names_what_it_replaced(log: History) -> None:
    for version in ("a", "b", "a"):
        log.promote(version, f"why {version}\nin one line")
    assert log.current_version() == "a"
    assert [(p.version, p.replaced, p.why) for p in log.promotions()] == [
        ("a", "b", "why a in one line"),
        ("b", "a", "why b in one line"),
        ("a", None, "why a in one line"),
    ]


def test_promoting_what_is_in_production_changes_only_the_token(
    log: History, tmp_path: Path
) -> None:
    """A service that couldn't load the version sees the token and tries again."""
    log.promote("a", "")
    files = [path.read_text() for path in (tmp_path / ".production", tmp_path / ".history.jsonl")]
    before = log.token()
    assert log.promote("a", "again") is None
    assert log.token() != before
    assert files == [
        path.read_text() for path in (tmp_path / ".production", tmp_path / ".history.jsonl")
    ]


def roll_back(log: History) -> str | None:
    previous = log.previous()
    if previous is None:
        return None
    log.promote(previous.version, "back", restores=previous.id)
    return log.current_version()


@pytest.mark.parametrize(
    ("promoted", "back"),
    [
        ("abb", "a"),
        ("abbb", "a"),
        ("aabb", "a"),
        ("aba", "ba"),
        ("abab", "aba"),
        ("aabbccbb", "cba"),
        ("aa", ""),
        ("a", ""),
        ("", ""),
    ],
)
def test_rolling_back_goes_back(log: History, promoted: str, back: str) -> None:
    for version in promoted:
        log.promote(version, "")
    for version in back:
        assert roll_back(log) == version
    assert roll_back(log) is None


def test_promoting_what_a_rollback_restored_does_not_turn_it_round(log: History) -> None:
    for version in "abc":
        log.promote(version, "")
    assert roll_back(log) == "b"
    log.promote("b", "by hand, too")
    assert roll_back(log) == "a"


def test_a_history_that_names_a_version_twice_in_a_row(log: History, tmp_path: Path) -> None:
    """As releases before this one wrote it."""
    after = None
    for number, version in enumerate("abb"):
        line = {"id": str(number), "version": version, "at": "2026-01-31T12:00:00Z", "why": ""}
        with (tmp_path / ".history.jsonl").open("a") as file:
            file.write(json.dumps(line | {"after": after}) + "\n")
        after = str(number)
    (tmp_path / ".production").write_text("b\n2\n")
    assert roll_back(log) == "a"
    assert roll_back(log) is None


def test_going_back_again_and_again(log: History) -> None:
    for version in ("a", "b", "c"):
        log.promote(version, "")
    assert [roll_back(log), roll_back(log), roll_back(log)] == ["b", "a", None]
    log.promote("d", "")
    assert roll_back(log) == "a"  # not to what was rolled back from
    assert roll_back(log) is None


def test_a_store_from_before_the_history(tmp_path: Path) -> None:
    (tmp_path / ".production").write_text("old")
    log = History(tmp_path)
    assert log.current_version() == "old"
    log.promote("new", "")
    assert [(p.version, p.replaced) for p in log.promotions()] == [("new", "old")]
    assert log.previous() is None


def test_damaged_lines_are_passed_over(tmp_path: Path) -> None:
    log = History(tmp_path)
    log.promote("a", "")
    with (tmp_path / ".history.jsonl").open("ab") as file:
        file.write(b'{"id": "x", "vers')  # its process was killed here
    log.promote("b", "")
    assert [p.version for p in log.promotions()] == ["b", "a"]


# The steps of a promotion, in their order: before and after each there is a state on the disk.
STEPS: list[tuple[Any, str]] = [
    (os, "write"), (os, "fsync"), (os, "close"), (Path, "write_text"), (Path, "chmod"),
    (Path, "replace"),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # fork beside threads
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", STEPS, ids=[name for _, name in STEPS])
def test_sigkill_leaves_the_old_or_the_new(
    log: History, tmp_path: Path, step: tuple[Any, str], when: str
) -> None:
    log.promote("a", "first")
    in_a_killed_process(lambda: log.promote("b", "second"), *step, when)
    versions = [promotion.version for promotion in log.promotions()]
    assert versions in (["a"], ["b", "a"])
    assert log.current_version() == versions[0]
    assert (versions == ["b", "a"]) == ((step[1], when) == ("replace", "after"))
    log.promote("c", "third")  # and its lock is free
    assert [p.version for p in log.promotions()] == ["c", *versions]


def in_a_killed_process(do: Callable[[], object], owner: Any, name: str, when: str) -> None:
    """Do it in a child that is killed before or after the first call of `owner.name`."""
    child = os.fork()
    if child == 0:
        original = getattr(owner, name)

        def killed(*arguments: Any, **options: Any) -> Any:
            if when == "after":
                original(*arguments, **options)
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(owner, name, killed)
        do()
        os._exit(0)  # it was never called
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_two_processes_promote_one_after_the_other(log: History, tmp_path: Path) -> None:
    children = []
    for number in range(8):
        child = os.fork()
        if child == 0:
            History(tmp_path).promote(f"v{number}", "")
            os._exit(0)
        children.append(child)
    for child in children:
        assert os.waitpid(child, 0)[1] == 0
    assert len(log.promotions()) == 8


def test_names_are_hidden_from_bentoml() -> None:
    assert all(
        name.startswith(".") for name in (promotions._POINTER, promotions._LOG, promotions._LOCK)
    )


DAMAGED = {
    "invalid UTF-8": b"\xff\xfe2026",
    "half a character": "ä".encode()[:1],
    "UTF-16": "20260131-120000-1a2b3c\n".encode("utf-16"),
    "zeros, as a power cut leaves them": bytes(57),
    "a zero in the name": b"2026\x00\nid\n",
    "an escape sequence": b"\x1b[2J\nid\n",
    "invalid in the second line": b"a\n\x80\n",
    "far too long": b"a" * 1_000_000,
    "a long first line": b"a" * 999 + b"\n" + b"b" * 999,
    "latin-1": "modèle".encode("latin-1"),
    "random": bytes(range(128, 256)),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_pointer_is_told_and_repaired_by_the_next_promotion(
    log: History, tmp_path: Path, content: bytes
) -> None:
    for version in ("a", "b"):
        log.promote(version, "")
    pointer = tmp_path / ".production"
    pointer.write_bytes(content)
    for read in (log.current_version, log.promotions, log.previous):
        with pytest.raises(StoreError, match=r"\.production.*is damaged.*'vgg19 promote TAG'"):
            read()
    log.promote("c", "repaired")
    assert [(p.version, p.replaced) for p in log.promotions()] == [
        ("c", "b"),
        ("b", "a"),
        ("a", None),
    ]
    previous = log.previous()
    assert previous is not None
    assert previous.version == "b"


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_pointer_without_a_history(log: History, tmp_path: Path, content: bytes) -> None:
    (tmp_path / ".production").write_bytes(content)
    log.promote("a", "")
    assert [(p.version, p.replaced) for p in log.promotions()] == [("a", None)]


@pytest.mark.parametrize("content", [b"", b"\n", b" \n \n"])
def test_an_empty_pointer_is_none(log: History, tmp_path: Path, content: bytes) -> None:
    (tmp_path / ".production").write_bytes(content)
    assert log.current_version() is None
