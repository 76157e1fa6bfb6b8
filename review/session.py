"""A review: the images, what people decided, and the fit that goes along. What the page talks to
(`review.desk.Desk`)."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from review.desk import Card, NotNow, Queue, Taken
from review.fit import Fit
from review.holding import Holding
from review.journal import Decision, Journal, check_new_classes
from review.label_studio import LabelStudioError, as_tasks, from_tasks
from review.learning import Learned, Learner
from review.pictures import png
from review.pool import Item, Pool
from review.workbench import LabelWeight, Workbench

# Decisions after which the head is fitted again.
BATCH = 10
# For so long an image is shown to one tab and to no other.
_HELD_S = 90.0
# From this probability on, an image is offered for confirmation in a group.
_SURE = 0.5
_SUGGESTED = 5
# Of the preprocessing, from which the page knows what of an image the model sees.
_GEOMETRY = {"image_size", "resize", "resize_size"}


class Session:
    """A review of a pool.

    Args:
        journal: where decisions are; those that are there already count.
        workbench: what can be done with the labels.
        classes: that may be chosen besides those that images have.
        batch: decisions after which the head is fitted again.
        who: the name that the page begins with.
        before: the session whose place this one takes, with other images: tabs keep what they hold,
            and what the last batch changed is still told. It isn't to be closed then.
    """

    def __init__(
        self,
        pool: Pool,
        journal: Journal,
        *,
        workbench: Workbench,
        classes: Sequence[str] = (),
        batch: int = BATCH,
        who: str = "",
        before: Session | None = None,
    ) -> None:
        self._pool = pool
        self._journal = journal
        self._workbench = workbench
        self._classes = tuple(classes)
        self._batch = batch
        self._who = who
        self._holding = Holding(pool, journal)
        self._learner = Learner(pool)
        self._lock = threading.RLock()
        self._held: dict[str, tuple[str, float]] = {} if before is None else before._held
        # Shared, for whoever still decides in the session before.
        self._fitting: ThreadPoolExecutor = (
            before._fitting if before else ThreadPoolExecutor(1, "fit")
        )
        self._pending: Future[None] | None = None
        self._problem: str | None = None
        self._learned: Learned = Learned(change=None if before is None else before._learned.change)
        self._fitted_at = 0  # decisions
        self._refit()

    def close(self) -> None:
        """End the fit that runs, if one does. The journal stays open."""
        self._fitting.shutdown(wait=True, cancel_futures=True)

    def labelled(self) -> dict[int, str]:
        """Row of the pool -> label, of what holds at present."""
        return self._holding.labelled()

    def classes(self) -> list[str]:
        return sorted({*self._classes, *self._holding.labels()})

    # What is shown

    def queue(self, tab: str, which: Queue, count: int) -> list[Card]:
        """See `Desk`: disputed ones first, then suspects, then what is worth a label most; suspects
        last where most of them may be right."""
        self._journal.refresh()
        self._refit_if_due()
        rows = {"disputed": self._holding.disputed, "suspect": self._suspects, "new": self._new}
        wanted = {"new": ["new"], "suspects": ["suspect"], "disputes": ["disputed"]}
        all_ = ["disputed", "suspect", "new"]
        if self._learned.suspects_are_hard:
            all_ = ["disputed", "new", "suspect"]
        with self._lock:
            waiting = [
                (row, reason) for reason in wanted.get(which, all_) for row in rows[reason]()
            ]
            free = [one for one in waiting if self._is_free(one[0], tab)]
            # Where others hold all that is left, it is shown twice: no answer is lost by that.
            chosen = (free or waiting)[:count]
            for row, _ in chosen:
                self._hold(row, tab)
            return [self._card(row, reason) for row, reason in chosen]

    def group(self, tab: str, count: int) -> tuple[str, list[Card]] | None:
        fit = self._learned.fit
        if fit is None:
            return None
        with self._lock:
            free = np.array(
                [r for r in self._holding.unlabelled() if self._is_free(r, tab)], np.int64
            )
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
        row = self._holding.find(image)
        standing = self._journal.standing(image)
        suspect = row in self._learned.suspects and self._holding.is_open(row)
        reason = "disputed" if standing.disputed else "suspect" if suspect else "new"
        return self._card(row, reason)

    def disagreements(self) -> list[Card]:
        self._journal.refresh()
        rows = [row for row, standing in self._holding.standings() if standing.disagreement]
        found = [self._card(row, "disputed") for row in rows]
        return sorted(found, key=lambda card: not card.standing.disputed)

    def path(self, image: str) -> Path:
        return self._pool.items[self._holding.find(image)].path

    def heat_map(self, image: str, label: str) -> bytes:
        row, fit = self._holding.find(image), self._learned.fit
        head = None
        if fit is not None and label in fit.labels:
            directions = self._learner.space(fit.depth).directions
            head = LabelWeight(fit.depth, fit.weight[fit.labels.index(label)] @ directions)
        return png(self._workbench.heat_map(self._pool.items[row], label, head))

    def overview(self) -> dict[str, Any]:
        self._journal.refresh()
        learned, labelled, images = self._learned, self.labelled(), len(self._pool.items)
        counts = Counter(labelled.values())
        standings = [standing for _, standing in self._holding.standings()]
        return {
            "who": self._who,
            "classes": [{"label": one, "images": counts[one]} for one in self.classes()],
            "preprocessing": self._pool.preprocessing.model_dump(include=_GEOMETRY)
            | {"resize": self._pool.preprocessing.resize},
            "images": images,
            "features": {"ready": images, "images": images} if self._pool.features else None,
            "labelled": len(labelled),
            "decided": sum(bool(one.votes) for one in standings),
            "waiting": {
                "disputes": len(self._holding.disputed()),
                "suspects": len(self._suspects()),
                "new": len(self._holding.unlabelled()),
            },
            "disagreements": sum(one.disagreement for one in standings),
            "fit": None if learned.fit is None else _fit_json(learned.fit),
            "change": None if learned.change is None else asdict(learned.change),
            "problem": self._problem,
            "fitting": self._pending is not None and not self._pending.done(),
            "batch": {"size": self._batch, "decided": len(self._journal) - self._fitted_at},
            "jobs": self._workbench.jobs(),
            "exports": self._workbench.exports,
            "elsewhere": [asdict(one) for one in self._workbench.elsewhere],
        }

    # What is decided

    def decide(self, decisions: Sequence[Decision]) -> list[Taken]:
        for decision in decisions:
            self._holding.find(decision.image)
        check_new_classes(self.classes(), decisions)
        written = self._journal.append(decisions)
        with self._lock:
            for decision in written:
                self._held.pop(decision.image, None)
        self._refit_if_due()
        return [Taken(one, self._journal.standing(one.image)) for one in written]

    def take(self, file: Path, who: str) -> int:
        """Make the annotations of a Label Studio export decisions; how many there were. What was
        said already isn't taken twice, also where others have replaced it since.

        Raises:
            LabelStudioError: the file can't be read, or is something else.
            JournalError: an annotation is no decision.
        """
        said = {
            (one.image, one.who, one.answer)
            for _, standing in self._holding.standings()
            for one in (*standing.past, *standing.votes)
        }
        try:
            content = file.read_bytes()
        except OSError as error:
            raise LabelStudioError(f"--import {file} can't be read: {error.strerror}") from None
        found = [one.checked() for one in from_tasks(content, self._known(), who)]
        new = [one for one in found if (one.image, one.who, one.answer) not in said]
        if new:
            self.decide(new)
        return len(new)

    def _known(self) -> dict[str, str]:
        """Digest, path or name of a file -> digest. A name that files of several folders have says
        none of them."""
        items = self._pool.items
        names = Counter(item.path.name for item in items)
        return {
            name: item.image
            for item in items
            for name in (item.image, str(item.path.absolute()), item.path.name)
            if names[name] < 2
        }

    def export(self, form: str) -> tuple[str, bytes]:
        if form not in self._workbench.exports:
            forms = " and ".join(self._workbench.exports)
            raise NotNow(f"'{form[:50]}' is no form of export; there are {forms}")
        if form == "label-studio":
            standings = [self._journal.standing(item.image) for item in self._pool.items]
            paths = [item.path for item in self._pool.items]
            return "label-studio.json", as_tasks(paths, [*self._holding.row_of], standings)
        return "labels.csv", self._workbench.labels_table(self._labelled_items())

    def start(self, job: str) -> None:
        """See `Workbench.start`."""
        self._workbench.start(job, self._labelled_items())

    def _labelled_items(self) -> list[tuple[Item, str]]:
        return [(self._pool.items[row], label) for row, label in sorted(self.labelled().items())]

    def wait(self) -> None:
        """For the fit that runs or waits, if one does."""
        pending = self._pending
        if pending is not None:
            pending.result()

    def _refit_if_due(self) -> None:
        """Decisions of other processes count as well."""
        if len(self._journal) - self._fitted_at < self._batch:
            return
        with self._lock:
            if self._pending is None or self._pending.done():
                self._pending = self._fitting.submit(self._refit)
                self._pending.add_done_callback(self._after_fit)

    def _after_fit(self, done: Future[None]) -> None:
        """A fit that fails stops nobody: labels go on, and it is tried again after the next."""
        error = None if done.cancelled() else done.exception()
        self._problem = None if error is None else f"the fit failed: {error}"

    def _refit(self) -> None:
        decisions, labelled = len(self._journal), self._holding.labelled()
        waiting = [row for row in self._holding.unlabelled() if row not in labelled]
        self._learned = self._learner.learn(labelled, waiting, self._learned)
        self._fitted_at = decisions

    def _suspects(self) -> list[int]:
        return [row for row in self._learned.suspects if self._holding.is_open(row)]

    def _new(self) -> list[int]:
        """In the order of their worth, and behind them what came into no order, or was skipped."""
        waiting = self._holding.unlabelled()
        known = set(waiting)
        ordered = [row for row in self._learned.order if row in known]
        first = [row for row in ordered if not self._holding.standing(row).skipped]
        return list(dict.fromkeys([*first, *waiting]))

    def _is_free(self, row: int, tab: str) -> bool:
        holder, until = self._held.get(self._pool.items[row].image, (tab, 0.0))
        return holder == tab or until < time.monotonic()

    def _hold(self, row: int, tab: str) -> None:
        """Keep other tabs from it for a while."""
        self._held[self._pool.items[row].image] = (tab, time.monotonic() + _HELD_S)

    def _card(self, row: int, reason: str) -> Card:
        item, fit = self._pool.items[row], self._learned.fit
        suggested = item.predictions[:_SUGGESTED]
        if fit is not None:
            best = np.argsort(-fit.probabilities[row], kind="stable")[:_SUGGESTED]
            suggested = tuple((fit.labels[i], float(fit.probabilities[row, i])) for i in best)
        says = self._learned.suspects.get(row)
        if reason == "suspect" and says is not None:
            suggested = ((says, 1.0), *(one for one in suggested if one[0] != says))
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
        "depth": fit.depth,
        "labels": len(fit.rows),
        "accuracy": fit.predictions.accuracy,
        "interval": [low, high],
        "seconds": fit.seconds,
    }
