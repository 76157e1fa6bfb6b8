from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models.errors import StoreError
from models.registry import journal, rollouts
from models.registry.rollouts import Canary, Rollouts, Shadow
from tests.models.registry.test_promotions import in_a_killed_process

SHADOW = Shadow(version="b", against="a")
CANARY = Canary(version="b", against="a", steps=(5, 25, 100))

at_each_step = pytest.mark.parametrize(
    "step",
    [(os, "write"), (os, "fsync"), (os, "close"), (journal, "append"), (rollouts, "staged_file")],
    ids=lambda step: str(step[1]),
)


@pytest.fixture
def store(tmp_path: Path) -> Rollouts:
    return Rollouts(tmp_path)


def test_one_at_a_time_and_each_end_is_told(store: Rollouts) -> None:
    assert store.current() is None
    store.begin(SHADOW, "because\nof that")
    assert store.current() == SHADOW
    with pytest.raises(StoreError, match="a shadow of b runs already; end it with 'vgg19 shadow"):
        store.begin(Shadow(version="c", against="a"), "")
    assert store.end(SHADOW, "stopped", "by hand")
    assert not store.end(SHADOW, "stopped", "by another worker")
    assert store.current() is None
    assert [(e.what, e.why, e.version) for e in store.events()] == [
        ("stopped", "by hand", "b"),
        ("begun", "because of that", "b"),
    ]


@pytest.mark.parametrize("when", ["before", "after"])
@at_each_step
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_sigkill_leaves_the_old_or_the_new(
    store: Rollouts, step: tuple[Any, str], when: str
) -> None:
    store.begin(SHADOW, "first")
    in_a_killed_process(lambda: store.end(SHADOW, "stopped", "second"), *step, when)
    events = [event.what for event in store.events()]
    assert (events, store.current()) in (
        (["begun"], SHADOW),
        (["stopped", "begun"], None),
    )
    store.end(SHADOW, "stopped", "third")  # and its lock is free
    assert store.current() is None


@pytest.mark.parametrize("when", ["before", "after"])
@at_each_step
@pytest.mark.parametrize("change", ["begin", "advance", "promote"])
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_sigkill_leaves_the_old_or_the_new_canary(
    store: Rollouts, tmp_path: Path, change: str, step: tuple[Any, str], when: str
) -> None:
    promoted = tmp_path / "promoted"
    if change != "begin":
        store.begin(CANARY, "first")
    before, events = store.current(), store.events()
    further = CANARY.next_step()
    assert further is not None
    do: Callable[[], object]
    do, after = {
        "begin": (lambda: store.begin(CANARY, "now"), CANARY),
        "advance": (lambda: store.advance(CANARY, "now"), further),
        "promote": (lambda: store.promote(CANARY, promoted.touch, "now"), None),
    }[change]
    in_a_killed_process(do, *step, when)
    now = store.current()
    is_new = len(store.events()) == len(events) + 1
    if is_new and after is not None:
        assert isinstance(now, Canary)
        assert (now.id, now.percent) == (after.id, after.percent)
    else:
        assert now == (after if is_new else before)
    assert promoted.exists() or change != "promote" or not is_new
    if now is None:
        store.begin(CANARY, "again")
    assert store.end(CANARY, "aborted", "by hand")  # and its lock is free
    assert store.current() is None


def test_a_damaged_state_is_told_and_repaired(store: Rollouts, tmp_path: Path) -> None:
    (tmp_path / ".rollout.json").write_text('{"rollout": 7')
    with pytest.raises(StoreError, match=r"is damaged; 'vgg19 shadow --stop' repairs it"):
        store.current()
    store.reset()
    assert store.current() is None
    assert store.events() == []


def test_a_repair_keeps_the_history(store: Rollouts, tmp_path: Path) -> None:
    store.begin(SHADOW, "first")
    store.end(SHADOW, "stopped", "second")
    (tmp_path / ".rollout.json").write_bytes(b"\xff" * 20_000)
    store.reset()
    assert [event.what for event in store.events()] == ["stopped", "begun"]
    store.begin(SHADOW, "third")
    assert [event.what for event in store.events()] == ["begun", "stopped", "begun"]


def test_a_line_that_a_full_disk_cuts_short_is_no_event(
    store: Rollouts, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.begin(SHADOW, "first")
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda file, line: write(file, line[:20]))
        with pytest.raises(OSError, match="No space left"):
            store.end(SHADOW, "stopped", "second")
    assert store.current() == SHADOW
    assert store.end(SHADOW, "stopped", "third")
    assert [event.why for event in store.events()] == ["third", "first"]
