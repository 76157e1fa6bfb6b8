"""Who serves since when, and why: the promotions of a store, and the pointer to the last one.

Two files beside the versions:

.production     the version that production serves, and the id of the promotion that chose it;
                replaced by rename
.history.jsonl  a line for each promotion, appended and on the disk before the pointer is replaced

A promotion counts once the pointer names it. Each line names the promotion before it (`after`),
so the promotions that counted are found by going back from the pointer; a line whose process was
killed before it moved the pointer is never reached. So a crash at any instant leaves the old state
or the new one, of both files together.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from models.errors import StoreError
from models.files import staged_file
from models.registry import journal

# Hidden: BentoML takes every visible name beside the versions for a version.
_POINTER = ".production"
_LOG = ".history.jsonl"
_LOCK = ".promotion.lock"
# Two lines of at most a version's length; what is longer is damaged, and isn't read to its end.
_MAX_POINTER_BYTES = 1000


class Promotion(BaseModel):
    """One line of the history.

    Args:
        replaced: the version that was served before; None for the first.
        after: the id of the promotion before this one.
        restores: of a rollback, the id of the promotion whose state it brings back.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    version: str
    at: datetime
    why: str
    replaced: str | None = None
    after: str | None = None
    restores: str | None = None


class History:
    """The promotions in one directory of the store."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._pointer = directory / _POINTER
        self._log = directory / _LOG

    def current_version(self) -> str | None:
        """The version promoted last; None before the first.

        Raises:
            StoreError: the pointer is damaged.
        """
        return self._read_pointer()[0]

    def token(self) -> tuple[int, int] | None:
        """Changes whenever somebody promotes, also what is in production; None before the first."""
        try:
            stat = self._pointer.stat()
        except FileNotFoundError:
            return None
        return stat.st_ino, stat.st_mtime_ns

    def promote(
        self,
        version: str,
        why: str,
        restores: str | None = None,
        instead_of: str | None = None,
    ) -> Promotion | None:
        """Make `version` the one that production serves. Repairs a damaged pointer.

        What is in production already stays as it is, and so does the history. Only the token
        changes, so that a service that couldn't load the version tries again.

        Args:
            why: for people; one line.
            instead_of: the version that must be in production until then; None: any.

        Returns:
            the promotion; None where `version` was in production already.

        Raises:
            StoreError: another one than `instead_of` is in production.
        """
        with journal.locked(self._directory / _LOCK):
            if self._is_current(version):
                self._write_pointer(*self._read_pointer())
                return None
            replaced, last = self._pointer_or_last_line()
            if instead_of not in (None, replaced):
                raise StoreError(
                    f"production is {replaced}, and {version} was to replace {instead_of}"
                )
            promotion = Promotion(
                id=uuid.uuid4().hex,
                version=version,
                at=datetime.now(UTC),
                why=" ".join(why.split()),
                replaced=replaced,
                after=last,
                restores=restores,
            )
            journal.append(self._log, promotion)
            self._write_pointer(version, promotion.id)
            return promotion

    def promotions(self) -> list[Promotion]:
        """Those that counted, the present one first."""
        version, at = self._read_pointer()
        if version is None:
            return []
        by_id = {promotion.id: promotion for promotion in journal.read(self._log, Promotion)}
        found: list[Promotion] = []
        while at is not None and at in by_id:
            found.append(by_id.pop(at))  # taken out: a damaged log can't lead in a circle
            at = found[-1].after
        return found

    def previous(self) -> Promotion | None:
        """The promotion that a rollback returns to; None if there is nothing before the present.

        What a rollback left behind is not returned to: after A, B and back to A, it is what was
        before A. Nor is the present version: A, B and B again, as older releases recorded it,
        leads to A.
        """
        found = self.promotions()
        by_id = {promotion.id: promotion for promotion in found}

        def origin(promotion: Promotion | None) -> Promotion | None:
            while promotion is not None and promotion.restores in by_id:
                promotion = by_id[promotion.restores]
            return promotion

        present = before = origin(found[0] if found else None)
        while present is not None and before is not None and before.version == present.version:
            before = origin(by_id.get(before.after or ""))
        return before

    def _is_current(self, version: str) -> bool:
        try:
            return self._read_pointer()[0] == version
        except StoreError:  # damaged: any promotion repairs it
            return False

    def _write_pointer(self, version: str | None, identifier: str | None) -> None:
        with staged_file(self._pointer) as staging:
            staging.write_text(f"{version}\n{identifier or ''}\n", encoding="utf-8")

    def _read_pointer(self) -> tuple[str | None, str | None]:
        """The version, and the id of its promotion (None in a store from before the history).

        Raises:
            StoreError: it is damaged.
        """
        try:
            with self._pointer.open("rb") as file:
                content = file.read(_MAX_POINTER_BYTES + 1)
        except FileNotFoundError:
            return None, None
        try:
            lines = content.decode("utf-8").split("\n")
        except UnicodeDecodeError:
            raise self._damaged("is no text") from None
        version, identifier = (line.strip() for line in (*lines, "")[:2])
        if len(content) > _MAX_POINTER_BYTES or not (version + identifier).isprintable():
            raise self._damaged("names no version")
        return version or None, identifier or None

    def _damaged(self, why: str) -> StoreError:
        return StoreError(
            f"{self._pointer}, which says what production serves, is damaged: it {why}; "
            "'vgg19 promote TAG' repairs it ('vgg19 models' lists the tags)"
        )

    def _pointer_or_last_line(self) -> tuple[str | None, str | None]:
        """Of a damaged pointer what it most likely was, so that the history before it isn't lost:
        the last promotion that was begun."""
        try:
            return self._read_pointer()
        except StoreError:
            last = next(reversed(list(journal.read(self._log, Promotion))), None)
            return (last.version, last.id) if last else (None, None)
