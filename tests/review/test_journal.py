from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from review.journal import Decision, Journal, JournalError

CAT, DOG = "a" * 64, "b" * 64
ROOT = Path(__file__).parents[2]


def says(label: str, who: str = "Ann", base: int = 0, image: str = CAT) -> Decision:
    return Decision(image, "label", who, label, base)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "review" / "decisions.jsonl")


def test_decisions_are_there_when_it_is_opened_again(journal: Journal) -> None:
    (first,) = journal.append([says("cat")])
    journal.append([Decision(DOG, "none", "Ben"), Decision(DOG, "skip", "Ben")])
    again = Journal(journal.path)
    assert again.standing(CAT).decided == first
    assert first.revision == 1
    assert first.at.endswith("+00:00")
    assert len(again) == 3
    assert again.labels() == {"cat"}
    assert again.standing(DOG).skipped == ("Ben",)
    assert again.standing("c" * 64).decided is None


def test_who_has_seen_a_decision_replaces_it(journal: Journal) -> None:
    journal.append([says("cat")])
    journal.append([says("dog", "Ben", base=1)])
    standing = journal.standing(CAT)
    assert standing.decided is not None
    assert (standing.decided.label, standing.decided.who) == ("dog", "Ben")
    assert [one.label for one in standing.past] == ["cat"]
    assert standing.disagreement
    assert not standing.disputed


def test_who_has_not_seen_it_stands_beside_it_until_somebody_settles(journal: Journal) -> None:
    """Two tabs of one person are no different."""
    journal.append([says("cat", base=0)])
    journal.append([says("dog", base=0)])
    standing = journal.standing(CAT)
    assert standing.disputed
    assert standing.decided is None
    assert [vote.label for vote in standing.votes] == ["cat", "dog"]
    journal.append([says("dog", "Eve", base=standing.revision)])
    settled = journal.standing(CAT)
    assert settled.decided is not None
    assert settled.decided.label == "dog"
    assert settled.confirmations == 2
    assert [vote.label for vote in settled.past] == ["cat", "dog"]


def test_the_same_answer_twice_is_no_dispute(journal: Journal) -> None:
    journal.append([says("cat"), says("cat", "Ben")])
    standing = journal.standing(CAT)
    assert not standing.disputed
    assert not standing.disagreement
    assert standing.confirmations == 2


def test_an_undo_brings_back_what_was_before(journal: Journal) -> None:
    journal.append([says("cat"), says("dog", base=1)])
    journal.append([Decision(CAT, "undo", "Ann", undoes=2)])
    decided = journal.standing(CAT).decided
    assert decided is not None
    assert decided.label == "cat"
    journal.append([Decision(CAT, "undo", "Ann", undoes=1)])
    assert journal.standing(CAT).votes == ()
    assert len(journal.path.read_text().splitlines()) == 4  # nothing is ever removed


@pytest.mark.parametrize(
    ("decision", "words"),
    [
        (Decision(CAT, "label", "Ann"), "has a label"),
        (Decision(CAT, "none", "Ann", "cat"), "no other has one"),
        (Decision(CAT, "label", "Ann", "  "), "has a label"),
        (Decision(CAT, "label", "Ann", "x" * 201), "201 characters"),
        (Decision(CAT, "label", " ", "cat"), "the name has 0 characters"),
        (Decision(CAT, "undo", "Ann", undoes=9), "no decision 9"),
        (Decision(CAT, "undo", "Ben", undoes=1), "decision 1 is Ann's"),
        (Decision(DOG, "undo", "Ann", undoes=1), "no decision 1 about this image"),
    ],
)
def test_what_is_no_decision_is_refused_and_nothing_written(
    journal: Journal, decision: Decision, words: str
) -> None:
    journal.append([says("cat")])
    with pytest.raises(JournalError, match=words):
        journal.append([says("dog", image=DOG), decision])
    assert len(Journal(journal.path)) == 1


def test_a_label_has_one_form(journal: Journal) -> None:
    (composed,) = journal.append([says(" caf\N{LATIN SMALL LETTER E}\N{COMBINING ACUTE ACCENT} ")])
    assert composed.label == "caf\N{LATIN SMALL LETTER E WITH ACUTE}"


def test_two_processes_write_one_file(journal: Journal) -> None:
    other = Journal(journal.path)
    for number in range(10):
        (journal, other)[number % 2].append([says("cat", image=f"{number:064}")])
    for one in (journal, other):
        one.refresh()
        assert len(one) == 10
    lines = [json.loads(line) for line in journal.path.read_text().splitlines()]
    assert [line["revision"] for line in lines] == list(range(1, 11))


def test_a_line_that_a_crash_cut_off_costs_no_other(journal: Journal) -> None:
    journal.append([says("cat")])
    with journal.path.open("ab") as file:
        file.write(b'{"image": "bbbb", "ki')
    again = Journal(journal.path)
    (next_one,) = again.append([says("dog", image=DOG)])
    assert next_one.revision == 2
    assert Journal(journal.path).standing(DOG).decided == next_one


def test_another_file_is_left_alone(tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("path,label\n")
    with pytest.raises(JournalError, match="holds no decisions"):
        Journal(table)
    assert table.read_text() == "path,label\n"


_WRITER = """
import sys
from pathlib import Path
from review.journal import Decision, Journal
journal = Journal(Path(sys.argv[1]))
for number in range(100_000):
    journal.append([Decision(f"{number:064}", "label", "Ann", "cat")])
    print(number, flush=True)
"""


def test_what_was_confirmed_survives_sigkill(tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    for _ in range(3):  # the third has two cut-off ends before it
        writer = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(path)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert writer.stdout is not None
        confirmed = [writer.stdout.readline() for _ in range(20)]
        os.kill(writer.pid, signal.SIGKILL)
        confirmed += writer.stdout.readlines()
        writer.wait()
        writer.stdout.close()
        whole = [line.strip() for line in confirmed if line.endswith("\n")]
        journal = Journal(path)
        for number in whole:
            assert journal.standing(f"{int(number):064}").decided is not None
        journal.close()


def test_what_is_closed_writes_into_no_other_file(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "decisions.jsonl")
    journal.close()
    with (tmp_path / "other").open("w+b"), pytest.raises(OSError, match="has ended"):
        journal.append([Decision("a" * 64, "none", "Ann")])
    assert (tmp_path / "other").read_bytes() == b""
