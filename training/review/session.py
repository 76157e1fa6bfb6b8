"""A review: the images, what people decided, and the fit that goes along. What the page talks to
(`review.desk.Desk`)."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from models.files import staged_file
from review.desk import Card, NotNow, Queue, Taken, UnknownImage
from review.journal import Decision, Journal, Standing
from review.label_studio import as_tasks, from_tasks
from review.pictures import png
from training.redeploy.labelling import put_labels
from training.review.fit import Change, Fit, best_depth, can_fit, change, fit_labels
from training.review.heat import heat_map
from training.review.jobs import Jobs
from training.review.order import first_penalty, most_valuable, uncertainty
from training.review.pool import Pool
from training.review.space import Space, make_space
from training.review.tables import captured_table, training_table

# Decisions after which the head is fitted again, unless there are twice as many meanwhile.
BATCH = 10
# Images of an order: a few batches, so that nobody waits for the next one.
_ORDERED = 60
# For so long an image is shown to one tab and to no other.
_HELD_S = 90.0
# From this probability on, an image is offered for confirmation in a group.
_SURE = 0.5
_SUGGESTED = 5
# Of the preprocessing, from which the page knows what of an image the model sees.
_GEOMETRY = {"image_size", "resize", "resize_size"}
# A label that so many decisions in a row have confirmed, that of its source included, is asked for
# no more, whatever the others say.
_ENOUGH = 2


@dataclass(frozen=True)
class _State:
    """What one fit led to; replaced as a whole.

    Args:
        order: rows of images without a label, the most valuable first.
        suspects: row -> what the others say, and by what margin; the worst first.
    """

    fit: Fit | None = None
    order: tuple[int, ...] = ()
    suspects: Mapping[int, tuple[str, float]] = field(default_factory=dict)
    change: Change | None = None
    decisions: int = 0


class Session:
    """A review of a pool.

    Args:
        journal: where decisions are; those that are there already count.
        jobs: what can be started in the background.
        classes: that may be chosen besides those that images have.
        batch: decisions after which the head is fitted again.
        who: the name that the page begins with.
        capture: where the labels of captured images are laid before a job begins.
    """

    def __init__(
        self,
        pool: Pool,
        journal: Journal,
        *,
        jobs: Jobs,
        classes: Sequence[str] = (),
        batch: int = BATCH,
        who: str = "",
        capture: str | None = None,
    ) -> None:
        self._pool = pool
        self._journal = journal
        self._jobs = jobs
        self._classes = tuple(classes)
        self._batch = batch
        self._who = who
        self._capture = capture
        self._row = {item.image: row for row, item in enumerate(pool.items)}
        # Of most images the journal says nothing, so what their sources say is sorted out once.
        rows = enumerate(pool.items)
        self._given = {row: item.given for row, item in rows if item.given is not None}
        self._without = [row for row, item in enumerate(pool.items) if item.given is None]
        units = {item.unit: place for place, item in enumerate(pool.items)}
        self._units = np.array([units[item.unit] for item in pool.items], np.int64)
        self._spaces: dict[Any, Space] = {}
        self._depth_chosen_with = 0
        self._lock = threading.RLock()
        self._held: dict[int, tuple[str, float]] = {}
        self._fitting = ThreadPoolExecutor(1, thread_name_prefix="fit")
        self._pending: Future[None] | None = None
        self._problem: str | None = None
        self._state = _State()
        self._refit()

    def close(self) -> None:
        """End what runs in the background."""
        self._jobs.close()
        self._fitting.shutdown(wait=True, cancel_futures=True)
        self._journal.close()

    # What holds

    def labelled(self) -> dict[int, str]:
        """row -> label, of those about which nobody differs; a decision wins over the source."""
        found = dict(self._given)
        for row, standing in self._standings():
            if standing.votes:
                found.pop(row, None)
            if standing.decided is not None and standing.decided.label is not None:
                found[row] = standing.decided.label
        return found

    def classes(self) -> list[str]:
        return sorted({*self._given.values(), *self._classes, *self._journal.labels()})

    def _standings(self) -> list[tuple[int, Standing]]:
        """Of the images that the journal tells of, in the order of their first line."""
        return [
            (self._row[image], self._journal.standing(image))
            for image in self._journal.images()
            if image in self._row
        ]

    # What is shown

    def queue(self, tab: str, which: Queue, count: int) -> list[Card]:
        """See `Desk`: disputed ones first, then suspects, then what is worth a label most."""
        self._journal.refresh()
        rows = {"disputed": self._disputed, "suspect": self._suspects, "new": self._new}
        wanted = {"new": ["new"], "suspects": ["suspect"], "disputes": ["disputed"]}.get(
            which, rows
        )
        with self._lock:
            waiting = [(row, reason) for reason in wanted for row in rows[reason]()]
            free = [one for one in waiting if self._is_free(one[0], tab)]
            # Where others hold all that is left, it is shown twice: no answer is lost by that.
            chosen = (free or waiting)[:count]
            for row, _ in chosen:
                self._hold(row, tab)
            return [self._card(row, reason) for row, reason in chosen]

    def group(self, tab: str, count: int) -> tuple[str, list[Card]] | None:
        fit = self._state.fit
        if fit is None:
            return None
        with self._lock:
            free = np.array([r for r in self._unlabelled() if self._is_free(r, tab)], np.int64)
            if not len(free):
                return None
            best = fit.probabilities[free].argmax(axis=1)
            surest = fit.probabilities[free].max(axis=1)
            sizes = np.bincount(best[surest >= _SURE], minlength=len(fit.labels))
            if not sizes.any():
                return None
            label = int(sizes.argmax())
            rows = free[(best == label) & (surest >= _SURE)]
            rows = rows[np.argsort(-fit.probabilities[rows, label], kind="stable")][:count]
            for row in rows.tolist():
                self._hold(row, tab)
            return fit.labels[label], [self._card(row, "new") for row in rows.tolist()]

    def card(self, image: str) -> Card:
        self._journal.refresh()
        row = self._find(image)
        standing = self._journal.standing(image)
        suspect = row in self._state.suspects and standing.confirmations < _ENOUGH
        reason = "disputed" if standing.disputed else "suspect" if suspect else "new"
        return self._card(row, reason)

    def disagreements(self) -> list[Card]:
        self._journal.refresh()
        rows = [row for row, standing in self._standings() if standing.disagreement]
        found = [self._card(row, "disputed") for row in rows]
        return sorted(found, key=lambda card: not card.standing.disputed)

    def path(self, image: str) -> Path:
        return self._pool.items[self._find(image)].path

    def heat_map(self, image: str, label: str) -> bytes:
        row, fit = self._find(image), self._state.fit
        if fit is None or label not in fit.labels:
            raise NotNow(f"'{label}' has no heat map yet: too few images have that label")
        weight = fit.weight[fit.labels.index(label)] @ self._space(fit.depth).directions
        return png(heat_map(self._pool, self._pool.items[row].path, fit.depth, weight))

    def overview(self) -> dict[str, Any]:
        self._journal.refresh()
        state, labelled = self._state, self.labelled()
        counts = Counter(labelled.values())
        standings = [standing for _, standing in self._standings()]
        return {
            "who": self._who,
            "classes": [{"label": one, "images": counts[one]} for one in self.classes()],
            "preprocessing": self._pool.preprocessing.model_dump(include=_GEOMETRY)
            | {"resize": self._pool.preprocessing.resize},
            "images": len(self._pool.items),
            "labelled": len(labelled),
            "decided": sum(bool(one.votes) for one in standings),
            "waiting": {
                "disputes": len(self._disputed()),
                "suspects": len(self._suspects()),
                "new": len(self._unlabelled()),
            },
            "disagreements": sum(one.disagreement for one in standings),
            "fit": None if state.fit is None else _fit_json(state.fit),
            "change": None if state.change is None else asdict(state.change),
            "problem": self._problem,
            "fitting": self._pending is not None and not self._pending.done(),
            "batch": {"size": self._batch, "decided": self._decisions() - state.decisions},
            "jobs": self._jobs.describe(),
        }

    # What is decided

    def decide(self, decisions: Sequence[Decision]) -> list[Taken]:
        for decision in decisions:
            self._find(decision.image)
        written = self._journal.append(decisions)
        with self._lock:
            for decision in written:
                self._held.pop(self._row[decision.image], None)
        if self._decisions() - self._state.decisions >= self._batch:
            self._refit_soon()
        return [Taken(one, self._journal.standing(one.image)) for one in written]

    def take(self, file: Path, who: str) -> int:
        """Make the annotations of a Label Studio export decisions; how many there were. What is
        decided already isn't taken twice.

        Raises:
            LabelStudioError: the file is something else.
        """
        known: dict[str, str] = {}
        for item in self._pool.items:
            for name in (item.path.name, str(item.path.absolute()), item.image):
                known[name] = item.image
        said = {
            (vote.image, vote.who, vote.answer)
            for item in self._pool.items
            for vote in self._journal.standing(item.image).votes
        }
        found = from_tasks(file.read_bytes(), known, who)
        new = [one for one in found if (one.image, one.who, one.answer) not in said]
        if new:
            self.decide(new)
        return len(new)

    def export(self, form: str) -> tuple[str, bytes]:
        if form == "label-studio":
            standings = [self._journal.standing(item.image) for item in self._pool.items]
            paths = [item.path for item in self._pool.items]
            return "label-studio.json", as_tasks(paths, [*self._row], standings)
        if form == "labels":
            return "labels.csv", training_table(self._pool, self.labelled())
        raise NotNow(f"'{form}' is no form of export; there are label-studio and labels")

    def start(self, job: str) -> None:
        """Lay the labels where the job looks for them, and begin it.

        Raises:
            NotNow: see `Jobs.start`. CaptureError: the labels can't be laid there.
        """
        labelled = self.labelled()
        if self._capture is not None:
            table = self._journal.path.with_name("captured.csv")
            with staged_file(table) as staging:
                staging.write_bytes(captured_table(self._pool, labelled))
            put_labels(self._capture, table)
        self._jobs.start(job, training_table(self._pool, labelled))

    def wait(self) -> None:
        """For the fit that runs or waits, if one does."""
        pending = self._pending
        if pending is not None:
            pending.result()

    # The fit

    def _refit_soon(self) -> None:
        with self._lock:
            if self._pending is None or self._pending.done():
                self._pending = self._fitting.submit(self._refit)
                self._pending.add_done_callback(self._fitted)

    def _fitted(self, done: Future[None]) -> None:
        """A fit that fails stops nobody: labels go on, and it is tried again after the next."""
        error = None if done.cancelled() else done.exception()
        self._problem = None if error is None else f"the fit failed: {error}"

    def _refit(self) -> None:
        decisions, labelled, before = self._decisions(), self.labelled(), self._state
        fit = self._fit(labelled) if can_fit(labelled) else None
        order = self._order(fit, labelled)
        suspects = {row: (says, by) for row, says, by in fit.suspects()} if fit else {}
        changed = change(before.fit, fit) if fit and before.fit else before.change
        self._state = _State(fit, order, suspects, changed, decisions)

    def _fit(self, labelled: Mapping[int, str]) -> Fit:
        """At the depth that says most; it is chosen anew when there are twice as many labels."""
        if len(labelled) >= 2 * self._depth_chosen_with:
            spaces = {depth: self._space(depth) for depth in self._pool.features}
            self._depth = best_depth(labelled, self._units, spaces)
            self._depth_chosen_with = len(labelled)
        return fit_labels(labelled, self._units, self._space(self._depth), self._depth)

    def _order(self, fit: Fit | None, labelled: Mapping[int, str]) -> tuple[int, ...]:
        rows = [row for row in self._unlabelled() if row not in labelled]
        if not rows:
            return ()
        depth = fit.depth if fit else _first_depth(self._pool)
        coordinates = self._space(depth).coordinates
        doubt = uncertainty(fit.probabilities) if fit else np.ones(len(coordinates))
        penalty = fit.penalty if fit else first_penalty(coordinates)
        return tuple(
            most_valuable(
                coordinates,
                np.array(sorted(labelled), np.int64),
                np.array(rows, np.int64),
                doubt,
                penalty=penalty,
                count=_ORDERED,
            )
        )

    def _space(self, depth: Any) -> Space:
        if depth not in self._spaces:
            self._spaces[depth] = make_space(self._pool.features[depth])
        return self._spaces[depth]

    # Rows

    def _find(self, image: str) -> int:
        row = self._row.get(image)
        if row is None:
            raise UnknownImage(f"there is no image '{image[:80]}' in this review")
        return row

    def _unlabelled(self) -> list[int]:
        """Without a label, and nobody has said that they show none of the classes; those that
        somebody skipped last."""
        standings = self._standings()
        decided = {row for row, standing in standings if standing.votes}
        skipped = {row for row, standing in standings if standing.skipped}
        rows = [row for row in self._without if row not in decided]
        return [r for r in rows if r not in skipped] + [r for r in rows if r in skipped]

    def _disputed(self) -> list[int]:
        return [row for row, standing in self._standings() if standing.disputed]

    def _suspects(self) -> list[int]:
        return [row for row in self._state.suspects if self._is_open(row)]

    def _is_open(self, row: int) -> bool:
        """Whether a suspect is still to be asked for."""
        item = self._pool.items[row]
        standing = self._journal.standing(item.image)
        if standing.disputed or standing.skipped:
            return False
        decided = standing.decided
        given = item.given is not None and (decided is None or decided.label == item.given)
        return standing.confirmations + given < _ENOUGH

    def _new(self) -> list[int]:
        """In the order of their worth, and behind them what came into no order yet."""
        waiting = self._unlabelled()
        known = set(waiting)
        ordered = [row for row in self._state.order if row in known]
        first = [
            r for r in ordered if not self._journal.standing(self._pool.items[r].image).skipped
        ]
        return list(dict.fromkeys([*first, *waiting]))

    def _is_free(self, row: int, tab: str) -> bool:
        holder, until = self._held.get(row, (tab, 0.0))
        return holder == tab or until < time.monotonic()

    def _hold(self, row: int, tab: str) -> None:
        """Keep other tabs from it for a while."""
        self._held[row] = (tab, time.monotonic() + _HELD_S)

    def _decisions(self) -> int:
        return len(self._journal)

    def _card(self, row: int, reason: str) -> Card:
        item, fit = self._pool.items[row], self._state.fit
        suggested: tuple[tuple[str, float], ...] = ()
        if fit is not None:
            best = np.argsort(-fit.probabilities[row], kind="stable")[:_SUGGESTED]
            suggested = tuple((fit.labels[i], float(fit.probabilities[row, i])) for i in best)
        says = self._state.suspects.get(row)
        if reason == "suspect" and says is not None:
            suggested = ((says[0], 1.0), *(one for one in suggested if one[0] != says[0]))
        return Card(
            image=item.image,
            name=item.name,
            source=item.source,
            reason=reason,
            given=item.given,
            suggested=suggested,
            said=item.said,
            standing=self._journal.standing(item.image),
        )


def _fit_json(fit: Fit) -> dict[str, Any]:
    low, high = fit.predictions.interval
    return {
        "depth": fit.depth.name,
        "labels": len(fit.rows),
        "accuracy": fit.predictions.accuracy,
        "interval": [low, high],
        "seconds": fit.seconds,
    }


def _first_depth(pool: Pool) -> Any:
    """Before there are labels that could tell: the middle one."""
    places = list(pool.features)
    return places[len(places) // 2]
