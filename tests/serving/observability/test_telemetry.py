from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from bentoml._internal.utils.telemetry import ParentBasedTraceIdRatio
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry

from serving.admission.api_keys import Keys
from serving.admission.rate_limit import RateLimit
from serving.core.dataplane import DataPlane
from serving.http.app import create_app
from serving.observability.telemetry import access_logger
from testing.images import coloured_pixels, encode
from tests.serving.conftest import StubModel, context_of, telemetry_of
from tests.serving.http.test_app import app_of, sha256

IMAGE = encode(coloured_pixels(1))
PNG = {"Content-Type": "image/png"}


class Observed:
    """An HTTP client of a service whose log and metrics are kept."""

    def __init__(self, classifier: DataPlane, **changes: Any) -> None:
        self.lines: list[dict[str, Any]] = []
        self.registry = CollectorRegistry()
        telemetry = telemetry_of(
            self.registry, write=lambda line: self.lines.append(json.loads(line))
        )
        observed = DataPlane(
            classifier.models, classifier._decoders, classifier.limits, telemetry.on_answer
        )
        app = app_of(observed, telemetry=telemetry, **changes)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://test")

    def value(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0


@pytest.fixture
def observed(classifier: DataPlane) -> Observed:
    return Observed(classifier)


async def test_a_line_for_each_request_with_no_word_of_the_image(observed: Observed) -> None:
    files = [("image", ("secret-name.png", IMAGE))] * 3
    headers = {"X-Request-Id": "abc-1"}
    response = await observed.client.post("/classify", files=files, headers=headers)
    assert response.headers["x-request-id"] == "abc-1"
    (line,) = observed.lines
    assert line["transport"] == "http"
    assert line["operation"] == "POST /classify"
    assert (line["status"], line["outcome"], line["images"]) == ("200", "ok", 3)
    assert (line["request_id"], line["model_version"]) == ("abc-1", "v1")
    assert line["ms"] >= line["decode_ms"] + line["queue_ms"] + line["inference_ms"] - 0.02
    assert line["run_ms"] == line["inference_ms"]  # its old name
    assert "secret" not in json.dumps(line)
    assert "key" not in line


@pytest.mark.parametrize("bad", ["", "a b", "x" * 129, "a\tb", "{}"])
async def test_a_request_id_that_is_none_is_replaced(observed: Observed, bad: str) -> None:
    response = await observed.client.get("/labels", headers={"X-Request-Id": bad})
    assert len(response.headers["x-request-id"]) == 32
    assert observed.lines[0]["request_id"] == response.headers["x-request-id"]


async def test_probes_and_the_interface_leave_no_line(observed: Observed) -> None:
    for path in ("/v2/health/live", "/v2/health/ready", "/v2", "/openapi.json", "/docs", "/"):
        assert (await observed.client.get(path)).status_code == 200
    assert observed.lines == []


async def test_outcomes_are_counted(observed: Observed, model: StubModel) -> None:
    client = observed.client
    await client.post("/classify", content=IMAGE, headers=PNG)
    await client.post("/classify", content=b"no image", headers=PNG)
    await client.post("/classify", content=b"x" * 20_001, headers=PNG)
    await client.post("/classify", content=IMAGE, headers=PNG | {"X-Request-Timeout-Ms": "0.001"})
    await client.get("/nowhere")
    model.error = RuntimeError("secret")
    await client.post("/classify", content=IMAGE, headers=PNG)
    counted = {
        outcome: observed.value("vgg19_requests_total", transport="http", outcome=outcome)
        for outcome in ("ok", "bad_request", "too_large", "expired", "error", "cancelled")
    }
    assert counted == {
        "ok": 1, "bad_request": 2, "too_large": 1, "expired": 1, "error": 1, "cancelled": 0,
    }  # fmt: skip
    assert [line["status"] for line in observed.lines] == ["200", "400", "413", "504", "404", "500"]
    assert "secret" not in json.dumps(observed.lines)
    assert observed.value("vgg19_request_seconds_count", transport="http") == 6


async def test_keys_are_named_by_the_start_of_their_digest(classifier: DataPlane) -> None:
    keys = Keys([sha256("one")])
    observed = Observed(classifier, keys=keys, rate_limit=RateLimit(0.001, 1))
    for key in ("wrong", "one", "one"):
        await observed.client.get("/labels", headers={"Authorization": f"Bearer {key}"})
    assert [line["outcome"] for line in observed.lines] == [
        "unauthenticated", "ok", "rate_limited",
    ]  # fmt: skip
    assert [line.get("key") for line in observed.lines] == [None, sha256("one")[:12], None]


async def test_images_and_stages_are_counted(observed: Observed) -> None:
    files = [("image", ("a.png", IMAGE)), ("image", ("b.png", b"no image"))]
    await observed.client.post("/classify", files=files)
    assert observed.value("vgg19_images_total", outcome="answered") == 1
    assert observed.value("vgg19_images_total", outcome="failed") == 1
    for stage in ("decode", "queue", "inference", "run"):
        assert observed.value("vgg19_stage_seconds_count", stage=stage) == 1
    assert observed.value("vgg19_stage_seconds_sum", stage="decode") > 0
    inference, old_name = (
        observed.value("vgg19_stage_seconds_sum", stage=stage) for stage in ("inference", "run")
    )
    assert inference == old_name > 0


def test_the_log_goes_to_stdout_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    import logging

    logging.getLogger("serving.access").handlers.clear()
    write = access_logger()
    assert write == access_logger()
    write('{"a": 1}')
    assert capsys.readouterr().out == '{"a": 1}\n'
    logging.getLogger("serving.access").handlers.clear()


def test_nothing_is_observed_outside_a_request() -> None:
    from serving.observability import telemetry

    assert telemetry.current() is None


async def test_a_front_without_a_log(classifier: DataPlane) -> None:
    context = context_of(classifier)
    with context.telemetry.observe("http", "GET /", {}, "") as record:
        record.outcome = "ok"
    assert len(record.request_id) == 32


TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = {"traceparent": f"00-{TRACE_ID}-b7ad6b7169203331-01"}


class Traced:
    """A context whose spans are kept, with BentoML's sampler: records all, samples none itself."""

    def __init__(self, classifier: DataPlane) -> None:
        self.spans = InMemorySpanExporter()
        provider = TracerProvider(sampler=ParentBasedTraceIdRatio(0))
        provider.add_span_processor(SimpleSpanProcessor(self.spans))
        telemetry = telemetry_of(tracer=provider.get_tracer("test"))
        observed = DataPlane(
            classifier.models, classifier._decoders, classifier.limits, telemetry.on_answer
        )
        self.context = context_of(observed, telemetry=telemetry)


def check_spans(traced: Traced, operation: str, status: str) -> None:
    """One request in the client's trace, with its stages one after another."""
    finished = {span.name: span for span in traced.spans.get_finished_spans()}
    assert set(finished) == {operation, "decode", "queue", "inference"}
    assert {f"{span.context.trace_id:032x}" for span in finished.values() if span.context} == {
        TRACE_ID
    }
    inside = [finished[name] for name in ("decode", "queue", "inference")]
    parents = {span.parent.span_id for span in inside if span.parent}
    assert parents == {getattr(finished[operation].context, "span_id", None)}
    assert inside[0].end_time == inside[1].start_time
    assert inside[1].end_time == inside[2].start_time
    assert dict(inside[0].attributes or {}) == {"vgg19.images": 1, "vgg19.model_version": "v1"}
    attributes = finished[operation].attributes or {}
    assert (attributes["vgg19.status"], attributes["vgg19.outcome"]) == (status, "ok")


async def classify_traced(traced: Traced, headers: dict[str, str]) -> None:
    app = create_app()
    app.state.context = traced.context
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        response = await client.post("/classify", content=IMAGE, headers=PNG | headers)
    assert response.status_code == 200


async def test_spans_over_http(classifier: DataPlane) -> None:
    traced = Traced(classifier)
    await classify_traced(traced, TRACEPARENT)
    check_spans(traced, "POST /classify", "200")


async def test_what_nobody_samples_has_no_stages(classifier: DataPlane) -> None:
    traced = Traced(classifier)
    await classify_traced(traced, {})
    assert traced.spans.get_finished_spans() == ()
    unsampled = TRACEPARENT["traceparent"].removesuffix("01") + "00"
    await classify_traced(traced, {"traceparent": unsampled})
    assert traced.spans.get_finished_spans() == ()
