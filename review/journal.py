"""Decisions about images, in an append-only file: one JSON object a line.

Promise: a decision that `append` has returned is on the disk, whatever happens to the process or,
as far as its disk keeps what was synced, to the machine. None is ever changed or removed: an undo
is a line of its own, and so is whatever somebody else decides about the same image. Several
processes may write one file.

Each line has a revision, counted from 1. Who decides says which revision of the image they have
seen (`base`). A decision that has seen all others replaces them; one that hasn't, as from another
tab or another person at the same time, stands beside them, and where the two differ the image is
disputed until somebody decides who has seen both.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Self, get_args

from models.errors import UserError
from models.text import as_label, shown

# Its name in the folder of a review, so that `vgg19 review` and a service can go on with each
# other's.
JOURNAL_FILE = "decisions.jsonl"

Kind = Literal["label", "none", "skip", "undo"]
# Of a label and of a name, in characters: they are shown on one line.
MAX_LABEL = 200


class JournalError(UserError):
    """The file can't be used, or a decision can't be taken."""


@dataclass(frozen=True)
class Decision:
    """What somebody decided about an image, or is about to.

    Args:
        image: SHA-256 of the image's bytes, in hex.
        kind: label; none: it shows none of the classes; skip: somebody else may know; undo.
        label: of kind `label`, else None.
        base: the latest revision about this image that its author has seen; 0: none.
        undoes: the revision that an undo takes back.
        revision: its place in the journal, from 1; 0: not written yet.
        at: ISO 8601, UTC; "": not written yet.
    """

    image: str
    kind: Kind
    who: str
    label: str | None = None
    base: int = 0
    undoes: int | None = None
    revision: int = 0
    at: str = ""

    def checked(self) -> Self:
        """With its label in the one form that it has everywhere (`models.text.as_label`).

        Raises:
            JournalError: a label or a name is empty or too long, or the kind isn't one.
        """
        label = self.label and as_label(self.label).strip()
        if self.kind not in get_args(Kind):
            raise JournalError(f"'{self.kind}' is none of {', '.join(get_args(Kind))}")
        if (self.kind == "label") != bool(label):
            raise JournalError("a decision of kind label has a label, and no other has one")
        for what, text in (("label", label or "-"), ("name", self.who.strip())):
            if not 0 < len(text) <= MAX_LABEL:
                raise JournalError(
                    f"the {what} has {len(text)} characters, it must have 1 to {MAX_LABEL}"
                )
        return replace(self, label=label or None, who=self.who.strip())

    @property
    def answer(self) -> tuple[str, str | None]:
        """What two people may differ in."""
        return self.kind, self.label


def check_new_classes(classes: Iterable[str], decisions: Iterable[Decision]) -> None:
    """Of what people type, where nobody could see what it is, or that there is such a class.

    Args:
        classes: that there are, whatever they are called.

    Raises:
        JournalError: a new class's name holds characters that can't be seen, or differs from
            another's only in upper and lower case (as folders, many file systems have them as one).
    """
    known = set(classes)
    alike = {label.casefold(): label for label in known}
    for label in (decision.checked().label for decision in decisions):
        if label is None or label in known:
            continue
        if shown(label) != label:
            raise JournalError(
                f"'{shown(label)}' holds characters that can't be seen; type the name anew"
            )
        other = alike.setdefault(label.casefold(), label)
        if other != label:
            raise JournalError(
                f"'{label}' differs from the class '{other}' only in upper and lower case; "
                f"choose '{other}', or another name"
            )


@dataclass(frozen=True)
class Standing:
    """What holds for an image.

    Args:
        votes: decisions that hold, the first first; several where their authors had not seen each
            other's.
        past: labels and nones that others replaced, by whom and when.
        skipped: by whom, since the last decision.
    """

    votes: tuple[Decision, ...] = ()
    past: tuple[Decision, ...] = ()
    skipped: tuple[str, ...] = ()

    @property
    def revision(self) -> int:
        """What a decision's `base` has to be to replace all of this."""
        return max((vote.revision for vote in self.votes), default=0)

    @property
    def disputed(self) -> bool:
        return len({vote.answer for vote in self.votes}) > 1

    @property
    def decided(self) -> Decision | None:
        """None where nobody has decided, or people differ."""
        return self.votes[-1] if self.votes and not self.disputed else None

    @property
    def confirmations(self) -> int:
        """How many decisions say what holds, in a row from the latest one back."""
        if self.decided is None:
            return 0
        count = 0
        for decision in reversed((*self.past, *self.votes)):
            if decision.answer != self.decided.answer:
                break
            count += 1
        return count

    @property
    def disagreement(self) -> bool:
        """Whether several people, or one at two times, said different things, settled or not."""
        return len({decision.answer for decision in (*self.past, *self.votes)}) > 1


class Journal:
    """The decisions of a file, which is made where there is none.

    Raises:
        JournalError: it can't be opened, or holds something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._lines: dict[str, list[Decision]] = defaultdict(list)
        self._by_revision: dict[int, Decision] = {}
        self._undone: set[int] = set()
        self._latest = 0
        self._standings: dict[str, Standing] = {}
        self._read_to = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            _sync_directory(path.parent)
        except OSError as error:
            raise JournalError(f"{path} can't be written: {error.strerror}") from None
        try:
            self.refresh()
        except JournalError:
            self.close()
            raise

    def close(self) -> None:
        """Nothing is read or written any more: that raises OSError, also for whoever waits now."""
        with self._lock:
            os.close(self._file)
            self._file = -1  # the number is soon another file's

    def __len__(self) -> int:
        return len(self._by_revision)

    def refresh(self) -> None:
        """Read what other processes have written since."""
        with self._lock:
            self._check_open()
            self._read()

    def append(self, decisions: Sequence[Decision]) -> list[Decision]:
        """Write decisions, all of them synced together; returns them as they were written.

        Raises:
            JournalError: one isn't a decision, or undoes what isn't its author's to undo. None of
                them is written then.
            OSError: the disk is full or fails. What was not returned may be written in part; a
                line that is cut off doesn't count.
        """
        checked = [decision.checked() for decision in decisions]
        with self._lock, self._exclusive():
            self._read()
            for decision in checked:
                self._check_undo(decision)
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            first = self._latest + 1
            written = [
                replace(decision, revision=first + place, at=now)
                for place, decision in enumerate(checked)
            ]
            lines = "".join(f"{json.dumps(asdict(decision))}\n" for decision in written)
            _write_all(self._file, self._line_end() + lines.encode())
            os.fsync(self._file)
            self._read()
        return written

    def standing(self, image: str) -> Standing:
        """What holds for an image; of one that nobody has seen, nothing."""
        with self._lock:
            if image not in self._standings:
                lines = self._lines.get(image, ())
                kept = [one for one in lines if one.revision not in self._undone]
                self._standings[image] = _fold(kept)
            return self._standings[image]

    def images(self) -> list[str]:
        """Those that a line tells of, in the order of their first."""
        with self._lock:
            return list(self._lines)

    def labels(self) -> set[str]:
        """Of the decisions that hold."""
        with self._lock:
            return {
                vote.label
                for image in self._lines
                for vote in self.standing(image).votes
                if vote.label
            }

    def _check_open(self) -> None:
        if self._file < 0:
            raise OSError(errno.EBADF, "this review has ended; start 'vgg19 review' again")

    def _check_undo(self, decision: Decision) -> None:
        if decision.kind != "undo":
            return
        meant = self._by_revision.get(decision.undoes or 0)
        if meant is None or meant.image != decision.image or meant.kind == "undo":
            raise JournalError(
                f"there is no decision {decision.undoes} about this image to undo; load it again"
            )
        if meant.who != decision.who:
            raise JournalError(
                f"decision {meant.revision} is {meant.who}'s; decide anew in place of undoing it"
            )

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Against other processes; ends with this one, however that ends."""
        self._check_open()
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def _line_end(self) -> bytes:
        """What closes a line that a crash cut off."""
        size = os.fstat(self._file).st_size
        return b"\n" if size and os.pread(self._file, 1, size - 1) != b"\n" else b""

    def _read(self) -> None:
        size = os.fstat(self._file).st_size
        added = os.pread(self._file, size - self._read_to, self._read_to)
        whole = added[: added.rfind(b"\n") + 1]
        for line in whole.splitlines():
            decision = _parse(line)
            if decision is not None:
                self._take(decision)
        if whole and not self._by_revision:
            raise JournalError(f"{self.path} holds no decisions; name another file")
        self._read_to += len(whole)

    def _take(self, decision: Decision) -> None:
        self._by_revision[decision.revision] = decision
        self._latest = max(self._latest, decision.revision)
        self._standings.pop(decision.image, None)
        if decision.undoes is not None:
            self._undone.add(decision.undoes)
        self._lines[decision.image].append(decision)


def _fold(decisions: Sequence[Decision]) -> Standing:
    votes: list[Decision] = []
    past: list[Decision] = []
    skipped: list[str] = []
    for decision in decisions:
        if decision.kind == "skip":
            skipped.append(decision.who)
        elif decision.kind != "undo":
            seen = [vote for vote in votes if vote.revision <= decision.base]
            past += seen
            votes = [vote for vote in votes if vote.revision > decision.base]
            votes.append(decision)
            skipped.clear()
    return Standing(tuple(votes), tuple(past), tuple(dict.fromkeys(skipped)))


def _parse(line: bytes) -> Decision | None:
    """None: cut off by a crash, or no decision."""
    try:
        decision = Decision(**json.loads(line))
    except (ValueError, TypeError):
        return None
    return decision if isinstance(decision.revision, int) and decision.revision > 0 else None


def _write_all(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def _sync_directory(path: Path) -> None:
    """So that a new file's name is on the disk as well."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
