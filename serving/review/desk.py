"""A review of what the service captures, while it serves: what the page talks to.

Promise: nothing is read or computed before somebody opens the page; requests go before what is
computed then; and a worker that ends, or is killed, loses no decision that it has confirmed.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import UserError
from review.desk import Card, NotNow, Queue, Taken
from review.journal import JOURNAL_FILE, Decision, Journal, JournalError
from review.pool import Item, Pool
from review.session import Session
from serving.core.pool import ModelPool
from serving.core.served_model import ServedModel
from serving.core.supervisor import Supervisor
from serving.review.features import Features
from serving.review.images import CapturedItems
from serving.review.workbench import ServiceWorkbench

# By what name it is logged and counted.
_WORK = "review"
# While the page is used, new captured images are looked for so often.
_LOOK_EVERY_S = 15.0
# How long whoever opens the page first waits for the images.
_FIRST_LOOK_S = 20.0


class ReviewError(UserError):
    """The folder of reviews can't be used."""


def open_journal(folder: Path) -> Journal:
    """That of a folder of reviews, which is made where there is none.

    Raises:
        ReviewError: it can't be written.
    """
    try:
        return Journal(folder / JOURNAL_FILE)
    except JournalError as error:
        raise ReviewError(
            f"VGG19_REVIEW can't be used: {error}; name a directory that outlives the container "
            "and can be written to, such as a mounted volume"
        ) from None


class ServiceDesk:
    """See `review.desk.Desk`: a session over the images that were there at the last look, and a
    thread that looks again while the page is used. Made in the event loop of the models.

    Args:
        folder: of the journal, and of images that are fetched from a URL.
        url: where the images are captured.
    """

    def __init__(self, folder: Path, url: str, models: ModelPool, supervisor: Supervisor) -> None:
        self._journal = open_journal(folder)
        self._models = models
        self._supervisor = supervisor
        self._workbench = ServiceWorkbench(url, folder, models, asyncio.get_running_loop())
        self._images = CapturedItems(url, folder / "images")
        self._features = Features()
        self._session: Session | None = None
        self._of: object = None  # what the session was made of
        self._changed = threading.Condition()
        self._asked = False
        self._closed = False
        self._error: UserError | None = None
        self._thread = threading.Thread(target=self._follow, name="review", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Decisions are refused from now on."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._journal.close()
        if self._session is not None:
            self._session.close()

    def overview(self) -> dict[str, Any]:
        """With how far the first look of the served model is, where it gives features."""
        found = self._current().overview()
        if found["features"] is None and self._models.current.features is not None:
            found["features"] = {"ready": self._features.looked_at, "images": found["images"]}
        return found

    def queue(self, tab: str, which: Queue, count: int) -> list[Card]:
        return self._current().queue(tab, which, count)

    def group(self, tab: str, count: int) -> tuple[str, list[Card]] | None:
        return self._current().group(tab, count)

    def card(self, image: str) -> Card:
        return self._current().card(image)

    def decide(self, decisions: Sequence[Decision]) -> list[Taken]:
        return self._current().decide(decisions)

    def path(self, image: str) -> Path:
        return self._current().path(image)

    def heat_map(self, image: str, label: str) -> bytes:
        return self._current().heat_map(image, label)

    def disagreements(self) -> list[Card]:
        return self._current().disagreements()

    def export(self, form: str) -> tuple[str, bytes]:
        return self._current().export(form)

    def start(self, job: str) -> None:
        self._current().start(job)

    def _current(self) -> Session:
        """Have the thread look for new images, and wait for the first ones.

        Raises:
            NotNow: they aren't there yet. UserError: they can't be read.
        """
        with self._changed:
            self._asked = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._session or self._error, _FIRST_LOOK_S)
            if self._session is not None:
                return self._session
            raise self._error or NotNow("the captured images are being read; load the page again")

    def _goes_on(self) -> bool:
        return not self._closed

    def _follow(self) -> None:
        while self._wait():
            pause_s = 0.0
            try:
                self._look()
            except Exception as error:  # of any of fsspec's file systems, among others
                pause_s = self._supervisor.failed(_WORK, error)
                words = error if isinstance(error, UserError) else NotNow("see the service's log")
                self._tell(words)
            else:
                self._supervisor.succeeded(_WORK)
                self._tell(None)
            with self._changed:
                self._changed.wait_for(lambda: self._closed, _LOOK_EVERY_S + pause_s)

    def _wait(self) -> bool:
        """Until somebody asks. False: it has ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._asked or self._closed)
            self._asked = False
            return not self._closed

    def _tell(self, error: UserError | None) -> None:
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def _look(self) -> None:
        """Make a session of what there is now; the first one before any features are there."""
        items, model = self._images.look(), self._models.current
        if self._session is None:
            self._replace(items, {}, model)
        found = self._features.of(items, model, self._goes_on)
        if found is not None:
            self._replace(*found, model)

    def _replace(
        self, items: list[Item], features: dict[str, NDArray[np.float16]], model: ServedModel
    ) -> None:
        """Unless the session that is there is of the same."""
        of = (items, bool(features), model.version)
        if of == self._of:
            return
        before = self._session
        session = Session(
            Pool(tuple(items), features, model.spec.preprocessing),
            self._journal,
            workbench=self._workbench,
            classes=model.spec.labels,
            before=before,
        )
        with self._changed:
            self._session, self._of = session, of
            self._changed.notify_all()
