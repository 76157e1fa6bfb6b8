"""A version in production's shadow: it answers the same images, and nobody gets what it says.

Promise: no request waits for it, fails by it or is changed by it, whatever it does. It computes in
a process of its own that stands still whenever a request is under way, one image at a time, and of
short requests at most one in 1000 finds it computing (`serving.rollout.idle_time`). Images wait for
it in a queue that is bounded, and what comes when that is full is dropped and counted. One
that can't be loaded, ends, takes longer than the limit, or keeps failing is disabled: its process
is killed, and the log, the metrics and `vgg19 shadow` say why.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from socket import gethostname
from threading import Condition, Thread
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from models.events import emit
from models.monitoring.comparison import Failure, Opinion
from models.registry.store import MODEL_NAME
from serving.core.errors import RequestError
from serving.core.requests import InferRequest, InferResponse
from serving.core.served_model import ServedModel
from serving.engine.right_of_way import Traffic
from serving.engine.session import ModelOutput
from serving.observability.telemetry import current
from serving.rollout.idle_time import IdleTime
from serving.rollout.process import CandidateProcess, ProcessEnded
from serving.rollout.recorder import Compared, Recorder, image_key

logger = logging.getLogger(__name__)

# 10 MB at 224 px, and of larger models' encoded images as many bytes at most.
_QUEUE_IMAGES, _QUEUE_BYTES = 64, 32_000_000
# A load takes 1 to 3 s on an idle machine; on network storage, or with TensorRT, minutes.
_LOAD_S = 600.0
# Running; a model that fails for one image in a thousand goes on, and its rule says what of it.
_MAX_FAILURES = 20
# How long a thread that waits for a gap may take to notice that it is to end.
_LOOK_S = 0.2


class ShadowMetrics(Protocol):
    """Where a shadow is counted."""

    def count_shadow(self, version: str, outcome: str, count: int = 1) -> None: ...
    def show_shadow(self, version: str, *, failed: bool) -> None: ...


@dataclass(frozen=True, slots=True)
class _Item:
    """An image that production has answered.

    Args:
        encoded: as it was sent; b"": it sent pixels.
        batch, batch_s: images of production's run, this request's and no others, and how long it
            took with nothing beside it; of the first image of the request. 1, None: not known.
    """

    key: str
    model: ServedModel
    output: ModelOutput
    pixels: NDArray[np.uint8]
    encoded: bytes
    batch: int = 1
    batch_s: float | None = None

    @property
    def size(self) -> int:
        return self.pixels.nbytes + len(self.encoded)


class Shadow:
    """One candidate beside production, from its loading to its end.

    Args:
        version: the candidate's. against: production's, whose answers it is compared with.
        start: starts its process; called in the shadow's own thread.
        traffic: the requests that go before it.
        timeout_s: that it may compute for one image, pauses left out.
    """

    def __init__(
        self,
        version: str,
        against: str,
        start: Callable[[], CandidateProcess],
        traffic: Traffic,
        recorder: Recorder,
        metrics: ShadowMetrics,
        *,
        timeout_s: float,
        load_timeout_s: float = _LOAD_S,
    ) -> None:
        self._version = version
        self._against = against
        self._start = start
        self._traffic = traffic
        self.recorder = recorder
        self._metrics = metrics
        self._timeout_s = timeout_s
        self._load_timeout_s = load_timeout_s
        self._queue: deque[_Item] = deque()
        self._queued_bytes = 0
        self._changed = Condition()
        self._closed = False
        self._process: CandidateProcess | None = None
        self._idle: IdleTime | None = None
        self._hung = ""
        self._loaded = False
        self._late_cpu_s: float | None = None  # of what takes longer than its limit, at that time
        metrics.show_shadow(version, failed=False)
        # A daemon, as all that work for others: it keeps no process alive.
        self._thread = Thread(target=self._work, name="shadow", daemon=True)
        self._thread.start()

    def offer(
        self,
        answer: InferResponse,
        rows: Sequence[NDArray[np.uint8] | RequestError],
        request: InferRequest,
    ) -> None:
        """In the event loop, with an answer that is ready; never waits.

        Args:
            rows: the pixels of each image, uint8[S,S,3].
        """
        if answer.model.version != self._against or self.recorder.state != "running":
            return
        if len(self._queue) >= _QUEUE_IMAGES:  # as on a busy service, where this is to cost nothing
            self._count("dropped", sum(not isinstance(row, RequestError) for row in answer.rows))
            return
        batch, batch_s = self._alone(answer)
        record = current()
        request_id = "" if record is None else record.request_id
        dropped = 0
        for index, (pixels, output) in enumerate(zip(rows, answer.rows, strict=True)):
            if isinstance(pixels, RequestError) or isinstance(output, RequestError):
                continue
            encoded = request.images[index] if request.images else b""
            key = image_key(request_id, index)
            own = _without_neighbours(pixels)
            item = _Item(key, answer.model, output, own, encoded, batch, batch_s)
            dropped += not self._put(item)
            batch, batch_s = 1, None
        if dropped:
            self._count("dropped", dropped)

    def _alone(self, answer: InferResponse) -> tuple[int, float | None]:
        """Of an answer whose images ran as one batch, with nothing beside it: how many, and how
        long that took. Else 1 and None."""
        images = sum(not isinstance(output, RequestError) for output in answer.rows)
        batch, inference_s = answer.model.last_run()
        if batch == images and self._traffic.alone_s >= inference_s:
            return batch, inference_s
        return 1, None

    def check(self) -> None:
        """The watchdog, every few seconds, in any thread but the shadow's."""
        process = self._process
        if process is None or self._hung:
            return
        limit_s = self._timeout_s if self._loaded else self._load_timeout_s
        if process.ran_s <= limit_s:
            self._late_cpu_s = None
            return
        if self._late_cpu_s is None:
            self._late_cpu_s = process.cpu_s
        # On a machine that is full it may want a core for long and get none: that is no hang.
        if not process.wants_to_run or process.cpu_s - self._late_cpu_s >= limit_s:
            doing = "an image" if self._loaded else "loading"
            self._hung = f"{doing} took more than {limit_s:g} s"
            process.kill()

    def close(self) -> None:
        """End it, without waiting for anything that it does."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._idle is not None:
            self._idle.close()
        if self._process is not None:
            self._process.kill()
        self._thread.join(timeout=5)

    def _put(self, item: _Item) -> bool:
        """Whether there was room."""
        with self._changed:
            size = item.size
            if len(self._queue) >= _QUEUE_IMAGES or self._queued_bytes + size > _QUEUE_BYTES:
                return False
            self._queue.append(item)
            self._queued_bytes += size
            self._changed.notify()
        return True

    def _next(self, idle: IdleTime) -> _Item | None:
        """Waits for an image, and until it may be computed; None: it is to end."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closed)
        while not self._closed and not idle.wait(_LOOK_S):
            pass
        with self._changed:
            if self._closed:
                return None
            item = self._queue.popleft()
            self._queued_bytes -= item.size
            return item

    def _work(self) -> None:
        try:
            self._run()
        except ProcessEnded as error:
            self._disable(self._hung or str(error))
        except Exception:
            logger.exception("the shadow of %s failed", self._version)
            self._disable("an internal error; see the log")
        finally:
            if self._idle is not None:
                self._idle.close()
            if self._process is not None:
                self._process.close()
            with self._changed:
                self._queue.clear()

    def _run(self) -> None:
        self._process = process = self._start()
        if self._closed:
            return
        with self._traffic.only_in_gaps(process):
            greeting = process.wait()
        if "failed" in greeting:
            self._disable(f"it can't be loaded: {greeting['failed']}")
            return
        self._loaded = True
        process.use_idle_time()
        self.recorder.set_state("running")
        logger.info("%s answers in production's shadow", self._version)
        self._idle = idle = IdleTime(process, stops_at_once=greeting["stops_at_once"])
        with self._traffic.only_in_gaps(idle):
            self._answer(process, idle, greeting["preprocessing"])

    def _answer(self, process: CandidateProcess, idle: IdleTime, preprocessing: Any) -> None:
        """One image after another, until it is to end or fails too often."""
        failures = 0
        while (item := self._next(idle)) is not None:
            failure = self._compare(process, idle, preprocessing, item)
            failures = failures + 1 if failure else 0
            if failures >= _MAX_FAILURES:
                self._disable(f"{failures} images in a row failed, the last one: {failure}")
                return

    def _compare(
        self, process: CandidateProcess, idle: IdleTime, preprocessing: Any, item: _Item
    ) -> str:
        """Have an image answered, and count that; why it wasn't, "" if it was."""
        same_pixels = preprocessing == item.model.spec.preprocessing.model_dump(mode="json")
        if not same_pixels and not item.encoded:
            self._count("skipped")
            return ""
        production = _opinion(item.model, item.output)
        question = {
            "encoded": not same_pixels,
            "label": production.label,
            "batch": item.batch,
        }
        image = np.ascontiguousarray(item.pixels).tobytes() if same_pixels else item.encoded
        pauses = process.pauses
        with idle.computing():
            answer = process.ask(question, image)
        was_paused = process.pauses != pauses
        if "skipped" in answer:
            self._count("skipped")
            return ""
        if "failure" in answer:
            self._count(answer["failure"])
            return str(answer["reason"])
        self._record(item, production, answer, was_paused=was_paused)
        return ""

    def _record(
        self, item: _Item, production: Opinion, answer: dict[str, Any], *, was_paused: bool
    ) -> None:
        candidate = Opinion(
            answer["label"], answer["confidence"], answer["accepted"], answer["distance"]
        )
        difference = max(0.0, production.confidence - answer["of_label"])
        times = None
        if not was_paused and item.batch_s is not None and answer["inference_s"] is not None:
            times = (item.batch_s / item.batch, answer["inference_s"] / item.batch)
        compared = Compared(item.key, production, candidate, difference, times)
        self.recorder.add(compared, item.pixels)
        agreed = production.label == candidate.label
        self._metrics.count_shadow(self._version, "agreed" if agreed else "differed")

    def _count(self, outcome: str, count: int = 1) -> None:
        """An image that wasn't compared."""
        if outcome == "dropped":
            self.recorder.drop(count)
        elif outcome == "skipped":
            self.recorder.skip()
        else:
            kind: Failure = "invalid" if outcome == "invalid" else "error"
            self.recorder.add_failure(kind)
        self._metrics.count_shadow(self._version, outcome, count)

    def _disable(self, reason: str) -> None:
        if self._closed:  # it was killed because it is to end
            return
        logger.error("the shadow of %s is disabled: %s", self._version, reason)
        self.recorder.set_state("failed", reason)
        self._metrics.show_shadow(self._version, failed=True)
        tag = f"{MODEL_NAME}:{self._version}"
        emit("shadow.disabled", tag, {"model": tag, "host": gethostname(), "why": reason})


def _opinion(model: ServedModel, output: ModelOutput) -> Opinion:
    best = output.best()
    return Opinion(
        model.spec.labels[best],
        float(output.probabilities[best]),
        model.accepts(output),
        output.distance,
    )


def _without_neighbours(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An image that is a part of a larger array would keep all of that in memory."""
    base = pixels.base
    return pixels.copy() if isinstance(base, np.ndarray) and base.size > pixels.size else pixels
