"""The process that a candidate answers in.

`python -m serving.rollout.child VERSION WORKER FD`: the worker's number, and a connected socket.

A process of its own, because there is no other way to be sure: what it does in native code may
hang, crash or eat the memory, and a hang can't be interrupted from within. The parent kills it, or
stops and continues it with signals, at any instant.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.bundle.acceptance import Acceptance
from models.bundle.spec import ModelSpec
from models.errors import ImageError, UserError
from models.imaging.image import load_image
from serving.engine.providers import device_name
from serving.engine.session import ModelOutput, Session, is_accepted
from serving.loading import open_session, session_options, use_store
from serving.settings import Settings, load_settings

# Decoding can't be paused by halves, so only images of the small lane are decoded a second time
# (`serving.core.decode_budget`).
_MAX_PIXELS = 2_000_000
# How far from 1 the probabilities may sum up: of 1,000 float16 classes the rounding is below 1e-3.
_SUM_TOLERANCE = 1e-2


class InvalidAnswer(Exception):
    """What the model gave is no answer."""


class Candidate:
    """A loaded candidate.

    Args:
        formats: that are opened, of images which it has to decode itself.
        stops_at_once: see `serving.rollout.idle_time.IdleTime`.
    """

    def __init__(
        self,
        session: Session,
        spec: ModelSpec,
        acceptance: Acceptance | None,
        formats: tuple[str, ...],
        *,
        stops_at_once: bool,
    ) -> None:
        self._session = session
        self._spec = spec
        self._acceptance = acceptance
        self._formats = formats
        self._stops_at_once = stops_at_once

    @property
    def greeting(self) -> dict[str, Any]:
        """`preprocessing`: who has the same gives pixels, others the encoded image."""
        preprocessing = self._spec.preprocessing.model_dump(mode="json")
        return {"preprocessing": preprocessing, "stops_at_once": self._stops_at_once}

    def answer(self, question: dict[str, Any], image: bytes) -> dict[str, Any]:
        """What it says of an image.

        Args:
            question: `encoded`: what `image` is, else pixels; `label`: production's; `batch`: how
                many images production's batch had. The image is run as often, so that times can be
                compared: what a batch takes depends on its size, and not on what is in it.

        Returns:
            `label`, `confidence`, `accepted`, `distance` or null, `of_label` (the probability of
            production's label) and `inference_s` (of the batch; null: it takes no such batch); or
            `skipped`; or `failure` with a `reason`.
        """
        try:
            pixels = self._pixels(image, encoded=question["encoded"])
        except ImageError:
            return {"skipped": True}
        try:
            batch = question["batch"]
            fits = batch <= self._session.max_batch_size
            started = time.perf_counter()
            output, *_ = self._session.judge([pixels] * (batch if fits else 1))
            inference_s = time.perf_counter() - started
            check_answer(output, len(self._spec.labels))
        except InvalidAnswer as error:
            return {"failure": "invalid", "reason": str(error)}
        except Exception as error:
            return {"failure": "error", "reason": " ".join(str(error).split())[:300]}
        labels = self._spec.labels
        best = output.best()
        asked = question["label"]
        of_label = float(output.probabilities[labels.index(asked)]) if asked in labels else 0.0
        return {
            "label": labels[best],
            "confidence": float(output.probabilities[best]),
            "accepted": is_accepted(self._acceptance, output),
            "distance": output.distance,
            "of_label": of_label,
            "inference_s": inference_s if fits else None,
        }

    def _pixels(self, image: bytes, *, encoded: bool) -> NDArray[np.uint8]:
        preprocessing = self._spec.preprocessing
        if encoded:
            return load_image(image, preprocessing, max_pixels=_MAX_PIXELS, formats=self._formats)
        size = preprocessing.image_size
        return np.frombuffer(image, np.uint8).reshape(size, size, 3)


def check_answer(output: ModelOutput, classes: int) -> None:
    """Raise InvalidAnswer unless it is a distribution over the classes, and a distance."""
    row = output.probabilities
    if row.shape != (classes,):
        raise InvalidAnswer(f"it answers with shape {list(row.shape)}, it has {classes} classes")
    if not np.isfinite(row).all() or (row < 0).any() or abs(row.sum() - 1) > _SUM_TOLERANCE:
        raise InvalidAnswer("its probabilities are NaN, negative or don't sum to 1")
    if output.distance is not None and not np.isfinite(output.distance):
        raise InvalidAnswer(f"its distance is {output.distance}")


def load_candidate(settings: Settings, version: str, worker_index: int) -> Candidate:
    """As the service loads what it serves: signature, manifest, golden samples and all.

    Raises:
        UserError: it can't be loaded.
    """
    use_store(settings)
    bundle, session = open_session(settings, session_options(settings, worker_index), version)
    stops_at_once = settings.workers == 1 and device_name(session.provider) == "cpu"
    return Candidate(
        session, bundle.spec, bundle.acceptance(), settings.formats, stops_at_once=stops_at_once
    )


def serve(connection: Connection, version: str, worker_index: int) -> None:
    """Load the version, tell of it, then answer one question after another, until nobody asks."""
    try:
        candidate = load_candidate(load_settings(), version, worker_index)
    except UserError as error:
        _send(connection, {"failed": str(error)})
        return
    _send(connection, candidate.greeting)
    while True:
        try:
            question, image = json.loads(connection.recv_bytes()), connection.recv_bytes()
        except (EOFError, OSError):
            return
        _send(connection, candidate.answer(question, image))


def _send(connection: Connection, message: dict[str, Any]) -> None:
    connection.send_bytes(json.dumps(message).encode())


def main() -> None:
    version, worker_index, descriptor = sys.argv[1:]
    # A terminal's Ctrl-C and a supervisor's SIGTERM reach the whole group; the parent ends this.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    serve(Connection(int(descriptor)), version, int(worker_index))


if __name__ == "__main__":
    main()
