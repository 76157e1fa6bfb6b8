"""Keeps images with their predictions, for people to label and for training to learn from.

Off unless asked for. Three files an image, named alike: `STEM.img` as it was sent, `STEM.json` with
the prediction, and `STEM.label.json` once somebody told the right label (`POST /feedback`). Written
by a thread of its own, through fsspec; what comes faster than it can write is not kept, and when
the limit is reached, the oldest make room. A name from a client never becomes a file's.
"""

from __future__ import annotations

import hashlib
import json
import logging
import queue
import random
import threading
import time
from collections.abc import Sequence
from typing import Any, Literal

import fsspec
import numpy as np
from numpy.typing import NDArray

from models.errors import UserError
from serving.core.dataplane import Answer, top
from serving.core.errors import NotFound, RequestError

logger = logging.getLogger(__name__)

Mode = Literal["off", "uncertain", "sample", "all"]

_WAITING = 256  # images that wait to be written
_LABELS_KEPT = 5
# Other workers write to the same place, so what lies there is counted anew now and then.
_LIST_EVERY = 100


class CaptureError(UserError):
    """The location can't be used."""


class Capture:
    """Chooses and keeps images.

    Args:
        url: a directory, or a URL that fsspec knows.
        mode: uncertain: where the best probability is below `threshold`; sample: a share `rate`.
        limit_bytes: of everything in the location.

    Raises:
        CaptureError: the location can't be used.
    """

    def __init__(
        self, url: str, mode: Mode, *, threshold: float, rate: float, limit_bytes: int
    ) -> None:
        self._mode = mode
        self._threshold = threshold
        self._rate = rate
        self._limit_bytes = limit_bytes
        try:
            self._files, root = fsspec.url_to_fs(url)
            self._root = str(root).rstrip("/")
            self._files.makedirs(self._root, exist_ok=True)
            self._size = self._listed_size()
        except (ImportError, OSError, ValueError) as error:
            raise CaptureError(f"VGG19_CAPTURE_URL {url} can't be used: {error}") from None
        self._written = 0
        self._queue: queue.Queue[tuple[str, bytes, dict[str, Any]] | None] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._write_all, name="capture", daemon=True)
        self._thread.start()

    def offer(self, images: Sequence[bytes], answer: Answer, request_id: str) -> int:
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
            try:
                self._queue.put_nowait((stem, image, record))
            except queue.Full:  # the location is slower than the requests
                break
            taken += 1
        return taken

    def label(self, request_id: str, index: int, label: str) -> None:
        """Note the right label of an image that was kept. Waits for the location.

        Raises:
            NotFound: it wasn't kept, or is gone again.
        """
        pattern = f"{self._root}/*-{_digest(request_id)}-{index:03d}.json"
        found = [str(name) for name in self._files.glob(pattern)]
        if not found:
            raise NotFound(
                f"image {index} of request '{request_id[:50]}' is not kept (VGG19_CAPTURE is "
                f"'{self._mode}'); only what is kept can be labelled"
            )
        content = json.dumps({"label": label, "at": time.time()}).encode()
        for name in found:
            self._files.pipe_file(name.removesuffix(".json") + ".label.json", content)

    def close(self) -> None:
        """Write what waits, for a few seconds at most."""
        self._queue.put(None)
        self._thread.join(timeout=5)

    def _wants(self, row: NDArray[np.float32]) -> bool:
        if self._mode == "uncertain":
            return bool(row.max() < self._threshold)
        if self._mode == "sample":
            return random.random() < self._rate  # noqa: S311  # not for secrets
        return True

    def _write_all(self) -> None:
        while (item := self._queue.get()) is not None:
            stem, image, record = item
            try:
                self._write(stem, image, json.dumps(record).encode())
            except Exception:  # of any of fsspec's file systems: the service goes on
                logger.exception("an image can't be kept")

    def _write(self, stem: str, image: bytes, record: bytes) -> None:
        self._files.pipe_file(f"{self._root}/{stem}.img", image)
        self._files.pipe_file(f"{self._root}/{stem}.json", record)
        self._size += len(image) + len(record)
        self._written += 1
        if self._size > self._limit_bytes or self._written % _LIST_EVERY == 0:
            self._make_room()

    def _make_room(self) -> None:
        """Remove the oldest, by name, until nine tenths of the limit are left."""
        entries = self._listed()
        self._size = sum(size for _, size in entries)
        if self._size <= self._limit_bytes:
            return
        for name, size in entries:
            if self._size <= 0.9 * self._limit_bytes:
                break
            self._files.rm_file(name)
            self._size -= size

    def _listed(self) -> list[tuple[str, int]]:
        """(path, bytes) of what was kept, the oldest first."""
        self._files.invalidate_cache()
        entries = self._files.ls(self._root, detail=True)
        names = [(str(entry["name"]), int(entry.get("size") or 0)) for entry in entries]
        return sorted(one for one in names if one[0].rpartition("/")[2][:20].isdigit())

    def _listed_size(self) -> int:
        return sum(size for _, size in self._listed())


def _digest(request_id: str) -> str:
    return hashlib.sha256(request_id.encode()).hexdigest()[:16]
