"""Keeps images with their predictions, for people to label and for training to learn from.

Off unless asked for. Three files an image, named alike: `STEM.img` as it was sent, `STEM.json` with
the prediction, and `STEM.label.json` once somebody told the right label (`POST /feedback`). Written
by a thread of its own, through fsspec; what comes faster than it can write is not kept, and when
the limit is reached, the oldest make room. A name from a client never becomes a file's.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import time
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models.errors import UserError
from models.locations import list_files, open_location, reason, without_credentials
from serving.core.errors import DeadlineExceeded, NotFound, Overloaded, RequestError
from serving.core.requests import InferResponse, top
from serving.core.supervisor import Supervisor
from serving.core.workers import Workers
from serving.observability.capture_writer import CaptureWriter, Kept

Mode = Literal["off", "uncertain", "sample", "all"]

WAITING_BYTES = 64_000_000
_LABELS_KEPT = 5
# Labels on their way to the location, and how long one may take.
_LABELS_WAITING, _LABEL_S = 16, 30.0


class CaptureError(UserError):
    """The location can't be used."""


class Capture:
    """Chooses and keeps images.

    Args:
        url: a directory, or a URL that fsspec knows.
        mode: uncertain: where the best probability is below `threshold`; sample: a share `rate`.
        limit_bytes: of everything in the location.
        waiting_bytes: of what waits to be written; what is more is not kept.
        supervisor: told when the location fails.

    Raises:
        CaptureError: the location can't be used.
    """

    def __init__(
        self,
        url: str,
        mode: Mode,
        *,
        threshold: float,
        rate: float,
        limit_bytes: int,
        waiting_bytes: int = WAITING_BYTES,
        supervisor: Supervisor | None = None,
    ) -> None:
        self._mode = mode
        self._threshold = threshold
        self._rate = rate
        supervisor = supervisor or Supervisor()
        try:
            self._files, self._root = open_location(url)
            self._files.makedirs(self._root, exist_ok=True)
            self._writer = CaptureWriter(
                self._files, self._root, limit_bytes, waiting_bytes, supervisor
            )
        except Exception as error:  # each of fsspec's file systems has exceptions of its own
            shown = without_credentials(url)
            raise CaptureError(
                f"VGG19_CAPTURE_URL {shown} can't be used: {reason(error)}"
            ) from None
        self._supervisor = supervisor
        self._labelling: set[asyncio.Future[None]] = set()
        self._labellers = Workers(1, "feedback")

    def offer(self, images: Sequence[bytes], answer: InferResponse, request_id: str) -> int:
        """Keep those of a request's images that are to be kept; never waits.

        Returns:
            how many were taken.
        """
        taken = 0
        for index, (image, row) in enumerate(zip(images, answer.rows, strict=False)):
            if isinstance(row, RequestError) or not self._wants(row.probabilities):
                continue
            labels = top(answer.model.spec.labels, row.probabilities, _LABELS_KEPT)
            record = {
                "request_id": request_id,
                "image": index,
                "at": time.time(),
                "model_version": answer.model.version,
                "predictions": [{"label": p.label, "probability": p.probability} for p in labels],
            }
            stem = f"{time.time_ns():020d}-{_digest(request_id)}-{index:03d}"
            if not self._writer.put(Kept(stem, image, json.dumps(record).encode())):
                break  # the location is slower than the requests
            taken += 1
        return taken

    async def add_label(self, request_id: str, index: int, label: str) -> None:
        """As `label`, in a thread of its own: a location that hangs holds up nothing else.

        Raises:
            NotFound: see `label`.
            Overloaded: too many wait for the location. DeadlineExceeded: it took too long.
        """
        if len(self._labelling) >= _LABELS_WAITING:
            raise Overloaded(
                f"{len(self._labelling)} labels wait for VGG19_CAPTURE_URL, which is slow or "
                "unreachable; try again later"
            )
        storing = self._labellers.run(self.label, request_id, index, label)
        self._labelling.add(storing)
        storing.add_done_callback(self._labelled)
        done, _ = await asyncio.wait([storing], timeout=_LABEL_S)
        if not done:  # what has begun goes on, and counts as waiting until it ends
            raise DeadlineExceeded(
                f"VGG19_CAPTURE_URL did not answer within {_LABEL_S:g} s; try again later"
            )
        storing.result()

    def _labelled(self, storing: asyncio.Future[None]) -> None:
        """Also where its client has gone meanwhile."""
        self._labelling.discard(storing)
        error = None if storing.cancelled() else storing.exception()
        if error is None:
            self._supervisor.succeeded("feedback")
        elif not isinstance(error, RequestError):
            self._supervisor.failed("feedback", error)

    def label(self, request_id: str, index: int, label: str) -> None:
        """Note the right label of an image that was kept. Waits for the location.

        Raises:
            NotFound: it wasn't kept, or is gone again.
        """
        end = f"-{_digest(request_id)}-{index:03d}.json"
        found = [n for n, _ in list_files(self._files, self._root) if n.endswith(end)]
        if not found:
            raise NotFound(
                f"image {index} of request '{request_id[:50]}' is not kept (VGG19_CAPTURE is "
                f"'{self._mode}'); only what is kept can be labelled"
            )
        content = json.dumps({"label": label, "at": time.time()}).encode()
        for name in found:
            path = f"{self._root}/{name.removesuffix('.json')}.label.json"
            self._files.pipe_file(path, content)

    def close(self, grace_s: float = 5.0) -> None:
        """Write what waits, for so long at most; then it is dropped."""
        self._labellers.close()
        self._writer.close(grace_s)

    def _wants(self, row: NDArray[np.float32]) -> bool:
        if self._mode == "uncertain":
            return bool(row.max() < self._threshold)
        if self._mode == "sample":
            return random.random() < self._rate  # noqa: S311  # not for secrets
        return True


def _digest(request_id: str) -> str:
    return hashlib.sha256(request_id.encode()).hexdigest()[:16]
