"""What one worker has seen of a shadow: counted, and written into the store now and then.

Also joins answers with the labels that clients tell later. A label may be told to another worker
than the one that compared the image, so each writes down what it was told, and each reads what the
others were told.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import secrets
import socket
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.monitoring.comparison import Comparison, Failure, Opinion
from models.registry.tallies import (
    Picture,
    Pictures,
    ShadowTally,
    State,
    read_tallies,
    write_pictures,
    write_tally,
)

# Of each worker: images that may still get a label, and labels for images of others. 90 bytes each.
_REMEMBERED = 2_000
# The images that a report shows, of each worker; 20 kB each at 224 px.
_PICTURES = 24
_PICTURE_PIXELS = 112


@dataclass(frozen=True, slots=True)
class Compared:
    """One image, with both answers.

    Args:
        key: of the image in its request, see `image_key`. difference: how much less probable the
            candidate finds production's label than production does, 0..1.
        times_s: production's and the candidate's, for an image in a batch of the same size with
            nothing beside it; None: one of the two isn't known.
    """

    key: str
    production: Opinion
    candidate: Opinion
    difference: float
    times_s: tuple[float, float] | None


def image_key(request_id: str, index: int) -> str:
    """Names an image without telling whose it is."""
    return f"{hashlib.sha256(request_id.encode()).hexdigest()[:16]}-{index}"


def worker_name() -> str:
    """No two processes have the same, nor one and its successor in the same container."""
    host = "".join(c for c in socket.gethostname() if c.isalnum() or c == "-")[:40]
    return f"{host or 'host'}-{os.getpid()}-{secrets.token_hex(3)}"


class Recorder:
    """Counts for one rollout. From any thread.

    Args:
        directory: of the tallies. rollout: its id.
        keeps_pictures: whether images may be written into the store.
    """

    def __init__(self, directory: Path, rollout: str, *, keeps_pictures: bool) -> None:
        self._directory = directory
        self._rollout = rollout
        self._worker = worker_name()
        self._keeps_pictures = keeps_pictures
        self._lock = Lock()
        self._tally = ShadowTally(worker=self._worker)
        self._waiting: OrderedDict[str, tuple[str, str]] = OrderedDict()
        self._pictures: list[Picture] = []
        self._changed = self._pictures_changed = False

    @property
    def seen(self) -> Comparison:
        """By this worker. To be read in tests, and where nobody counts meanwhile."""
        return self._tally.comparison

    @property
    def state(self) -> State:
        return self._tally.state

    @property
    def reason(self) -> str:
        return self._tally.reason

    def set_state(self, state: State, reason: str = "") -> None:
        with self._lock:
            self._tally.state, self._tally.reason = state, reason
            self._changed = True

    def add(self, compared: Compared, pixels: NDArray[np.uint8] | None) -> None:
        """Count an image.

        Args:
            pixels: uint8[H,W,3], RGB, as production saw it; None: it isn't to be shown.
        """
        production, candidate = compared.production, compared.candidate
        with self._lock:
            self.seen.add(production, candidate)
            if compared.times_s is not None:
                self.seen.production.alone.add(compared.times_s[0])
                self.seen.candidate.alone.add(compared.times_s[1])
            self._waiting[compared.key] = (production.label, candidate.label)
            while len(self._waiting) > _REMEMBERED:
                self._waiting.popitem(last=False)
            self._changed = True
        if self._keeps_pictures and pixels is not None and production.label != candidate.label:
            self._keep_picture(compared, pixels)

    def add_failure(self, kind: Failure) -> None:
        with self._lock:
            self.seen.add_failure(kind)
            self._changed = True

    def drop(self, count: int) -> None:
        with self._lock:
            self.seen.dropped += count
            self._changed = True

    def skip(self) -> None:
        with self._lock:
            self.seen.skipped += 1
            self._changed = True

    def add_label(self, key: str, label: str) -> None:
        """That an image turned out to have, whoever compared it."""
        with self._lock:
            if not self._join(key, label):
                labels = self._tally.labels
                labels[key] = label
                while len(labels) > _REMEMBERED:
                    del labels[next(iter(labels))]  # the oldest: dicts keep their order
            self._changed = True

    def write(self) -> None:
        """Into the store, if something has changed; after a look at what the others were told.

        Raises:
            OSError: the store can't be written; nothing is lost, the next call tries again.
        """
        others = read_tallies(self._directory, self._rollout, ShadowTally)
        with self._lock:
            for other in others:
                for key, label in other.labels.items():
                    self._changed |= self._join(key, label)
            if not self._changed:
                return
            tally = self._tally.model_dump_json()
            pictures = Pictures(pictures=list(self._pictures)) if self._pictures_changed else None
            self._changed = self._pictures_changed = False
        try:
            write_tally(self._directory, self._rollout, self._worker, tally)
            if pictures is not None:
                write_pictures(self._directory, self._rollout, self._worker, pictures)
        except OSError:
            with self._lock:
                self._changed = True
                self._pictures_changed |= pictures is not None
            raise

    def _join(self, key: str, label: str) -> bool:
        """Count a label once; whether it is of an image that this worker compared."""
        answers = self._waiting.pop(key, None)
        if answers is None:
            return False
        self.seen.labelled.add(label, *answers)
        return True

    def _keep_picture(self, compared: Compared, pixels: NDArray[np.uint8]) -> None:
        full = len(self._pictures) >= _PICTURES
        if full and compared.difference <= self._pictures[-1].difference:
            return
        picture = Picture(
            png=_png(pixels),
            difference=compared.difference,
            production=compared.production.label,
            candidate=compared.candidate.label,
            production_confidence=compared.production.confidence,
            candidate_confidence=compared.candidate.confidence,
        )
        with self._lock:
            self._pictures = sorted([*self._pictures, picture], key=lambda one: -one.difference)
            del self._pictures[_PICTURES:]
            self._pictures_changed = self._changed = True


def _png(pixels: NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    image.thumbnail((_PICTURE_PIXELS, _PICTURE_PIXELS))
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
