"""What holds for each image of a pool: what its source says, and what people decided."""

from __future__ import annotations

from review.desk import UnknownImage
from review.journal import Journal, Standing
from review.pool import Pool

# A label that so many have said in a row, its source and decisions together, is asked for no more,
# whatever the fit says.
_ENOUGH = 2


class Holding:
    """Looks at the journal each time, and never changes it. Images are named by their row in the
    pool."""

    def __init__(self, pool: Pool, journal: Journal) -> None:
        self._pool = pool
        self._journal = journal
        self.row_of = {item.image: row for row, item in enumerate(pool.items)}
        # Of most images the journal says nothing, so what their sources say is sorted out once.
        rows = enumerate(pool.items)
        self._given = {row: item.given for row, item in rows if item.given is not None}
        self._without = [row for row, item in enumerate(pool.items) if item.given is None]

    def find(self, image: str) -> int:
        """Raises UnknownImage."""
        row = self.row_of.get(image)
        if row is None:
            raise UnknownImage(f"there is no image '{image[:80]}' in this review")
        return row

    def standing(self, row: int) -> Standing:
        return self._journal.standing(self._pool.items[row].image)

    def standings(self) -> list[tuple[int, Standing]]:
        """Of the images that the journal tells of, in the order of their first line."""
        images = self._journal.images()
        rows = [self.row_of[image] for image in images if image in self.row_of]
        return [(row, self.standing(row)) for row in rows]

    def labelled(self) -> dict[int, str]:
        """row -> label, of those about which nobody differs; a decision wins over the source."""
        found = dict(self._given)
        for row, standing in self.standings():
            if standing.votes:
                found.pop(row, None)
            if standing.decided is not None and standing.decided.label is not None:
                found[row] = standing.decided.label
        return found

    def unlabelled(self) -> list[int]:
        """Those without a label about which nobody has said that they show none of the classes;
        those that somebody skipped last."""
        standings = self.standings()
        decided = {row for row, standing in standings if standing.votes}
        skipped = {row for row, standing in standings if standing.skipped}
        rows = [row for row in self._without if row not in decided]
        return [row for row in rows if row not in skipped] + [row for row in rows if row in skipped]

    def disputed(self) -> list[int]:
        return [row for row, standing in self.standings() if standing.disputed]

    def is_open(self, row: int) -> bool:
        """Whether a label that others contradict is still to be asked for."""
        standing = self.standing(row)
        if standing.disputed or standing.skipped:
            return False
        given, decided = self._given.get(row), standing.decided
        agrees = given is not None and (decided is None or decided.label == given)
        return standing.confirmations + agrees < _ENOUGH

    def labels(self) -> set[str]:
        """That some image has, or has had."""
        return {*self._given.values(), *self._journal.labels()}
