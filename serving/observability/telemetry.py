"""What every request leaves behind on either transport: metrics, a line of log, spans."""

from __future__ import annotations

import json
import logging
import random
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import TextIO

from opentelemetry import propagate, trace

from serving.core.requests import InferResponse
from serving.core.statistics import Timings
from serving.observability.capture import Capture
from serving.observability.drift import DriftMonitor
from serving.observability.metrics import Metrics

REQUEST_ID_HEADER = "x-request-id"
REQUEST_ID = re.compile(r"[A-Za-z0-9_.:/+=-]{1,128}")


@dataclass(frozen=True, slots=True)
class Answered:
    """What the log tells of an answer."""

    model_version: str
    images: int
    timings: Timings


@dataclass
class RequestRecord:
    """One request, filled in on its way.

    It holds no model: the timer of a connection that is kept alive holds the record until the next
    request, and so a model would stay in memory after it was dropped.
    """

    transport: str
    operation: str  # "POST /classify", or the name of the RPC
    request_id: str
    client: str  # its address
    key: str = ""  # SHA-256 of its API key
    status: str = ""
    outcome: str = "ok"
    answered: Answered | None = None
    is_look: bool = False  # at the service itself; thousands a day of each page that is open
    headers: Mapping[str, str] = field(default_factory=dict)  # or metadata; names in small letters


_current: ContextVar[RequestRecord | None] = ContextVar("request", default=None)


def current() -> RequestRecord | None:
    """The request that this task answers."""
    return _current.get()


class Telemetry:
    """Observes requests.

    Args:
        write: gets each line of the access log; None: there is none.
        tracer: makes a span for each request, in which `decode`, `queue` and `inference` lie; None:
            nobody collects them.
        capture: keeps images; None: none is kept.
        drift: counts what is answered; None: nobody compares it with anything.
    """

    def __init__(
        self,
        metrics: Metrics,
        write: Callable[[str], None] | None,
        tracer: trace.Tracer | None,
        capture: Capture | None = None,
        drift: DriftMonitor | None = None,
    ) -> None:
        self.metrics = metrics
        self._tracer = tracer
        self._write = write
        self.capture = capture
        self.drift = drift

    def observe(
        self, transport: str, operation: str, headers: Mapping[str, str], client: str
    ) -> _Observing:
        """Around a request that is no probe.

        Args:
            headers: of the request, or its metadata. A request id that isn't one is replaced; the
                request's span continues a `traceparent`.
        """
        request_id = headers.get(REQUEST_ID_HEADER)
        if request_id is None or not REQUEST_ID.fullmatch(request_id):
            request_id = f"{random.getrandbits(128):032x}"  # nobody needs it to be a secret
        record = RequestRecord(transport, operation, request_id, client, headers=headers)
        span = None if self._tracer is None else _span(self._tracer, record, headers)
        return _Observing(record, span, self._on_end)

    def _on_end(self, record: RequestRecord, seconds: float) -> None:
        if not record.is_look or record.outcome != "ok":
            self.metrics.count_request(record.transport, record.outcome, seconds)
        if self._write is not None:
            self._write(_line(record, seconds))

    def on_answer(self, answer: InferResponse, images: Sequence[bytes]) -> None:
        """For `DataPlane`: notes the answer in its request."""
        record = current()
        if record is not None:
            record.answered = Answered(answer.model.version, len(answer.rows), answer.timings)
            if self.capture is not None:
                self.capture.offer(images, answer, record.request_id)
        self.metrics.count_answer(answer)
        if self.drift is not None:
            self.drift.record(answer)
        if (
            self._tracer is not None
            and trace.get_current_span().get_span_context().trace_flags.sampled
        ):
            _add_spans(self._tracer, answer)


class _Observing:
    """Around one request, whose record is the current one meanwhile.

    A class, because a generator's `with` takes a microsecond more, at each request.

    Args:
        span: None: nobody collects them.
        on_end: gets the record and the seconds that it took.
    """

    def __init__(
        self,
        record: RequestRecord,
        span: AbstractContextManager[None] | None,
        on_end: Callable[[RequestRecord, float], None],
    ) -> None:
        self._record = record
        self._span = span
        self._on_end = on_end

    def __enter__(self) -> RequestRecord:
        self._token = _current.set(self._record)
        self._started = time.perf_counter()
        if self._span is not None:
            self._span.__enter__()
        return self._record

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if self._span is not None:
                self._span.__exit__(kind, error, traceback)
        finally:
            _current.reset(self._token)
            self._on_end(self._record, time.perf_counter() - self._started)


@contextmanager
def _span(
    tracer: trace.Tracer, record: RequestRecord, headers: Mapping[str, str]
) -> Iterator[None]:
    """The request's own span, which continues the client's trace."""
    parent = propagate.extract(headers)
    with tracer.start_as_current_span(record.operation, parent, trace.SpanKind.SERVER) as span:
        try:
            yield
        finally:
            span.set_attribute("vgg19.transport", record.transport)
            span.set_attribute("vgg19.status", record.status)
            span.set_attribute("vgg19.outcome", record.outcome)


def _add_spans(tracer: trace.Tracer, answer: InferResponse) -> None:
    """The stages as spans that end now, one after another."""
    end = time.time_ns()
    for name, seconds in reversed(answer.timings.stages().items()):
        start = end - int(seconds * 1e9)
        span = tracer.start_span(name, start_time=start)
        span.set_attribute("vgg19.images", len(answer.rows))
        span.set_attribute("vgg19.model_version", answer.model.version)
        span.end(end)
        end = start


class _Stdout(logging.StreamHandler[TextIO]):
    """Writes to stdout as long as somebody reads there. `logging` would print a traceback for each
    line that can't be written, kilobytes for each request."""

    _failed = _told = False

    def emit(self, record: logging.LogRecord) -> None:
        self._failed = False
        super().emit(record)
        self._told = self._failed

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        self._failed = True
        if not self._told:
            reason = sys.exc_info()[1]
            with suppress(OSError, ValueError):  # stderr is gone as well
                # In one call, or the lines of two workers get mixed where stderr is unbuffered.
                sys.stderr.write(f"the access log can't be written to stdout: {reason}\n")


def access_logger() -> Callable[[str], None]:
    """Writes lines to stdout, and nothing around them."""
    logger = logging.getLogger("serving.access")
    if not logger.handlers:
        logger.addHandler(_Stdout(sys.stdout))
        logger.setLevel(logging.INFO)
        logger.propagate = False
    return logger.info


def _line(record: RequestRecord, seconds: float) -> str:
    content: dict[str, object] = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "transport": record.transport,
        "operation": record.operation,
        "status": record.status,
        "outcome": record.outcome,
        "ms": round(seconds * 1e3, 2),
        "request_id": record.request_id,
        "client": record.client,
    }
    if record.key:
        content["key"] = record.key[:12]
    if record.answered is not None:
        stages = record.answered.timings.stages_and_old_names()
        content |= {
            "model_version": record.answered.model_version,
            "images": record.answered.images,
            **{f"{stage}_ms": round(seconds * 1e3, 2) for stage, seconds in stages.items()},
        }
    return json.dumps(content)
