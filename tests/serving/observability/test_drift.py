from __future__ import annotations

import errno
import json
import math
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from models.events.outbox import Outbox
from models.monitoring.features import NAMES
from models.monitoring.reference import Reference
from models.monitoring.watch import Rules
from serving.core.dataplane import DataPlane
from serving.core.decode_budget import DecodeBudget
from serving.core.pool import DesiredVersion, ModelPool
from serving.core.requests import InferRequest
from serving.core.served_model import ServedModel
from serving.http.app import create_app
from serving.http.drift_schema import DriftReply
from serving.observability.drift import DriftMonitor
from serving.observability.drift_metrics import DriftMetrics
from serving.observability.drift_store import DriftStore
from testing.images import COLOURS, coloured_pixels, encode
from tests.serving.conftest import LIMITS, StubModel, context_of, served, telemetry_of

LABELS = COLOURS
# What `coloured_pixels` of these seeds is, as PNG: seen often enough that bright images are news.
USUAL = [encode(coloured_pixels(seed)) for seed in range(40)]
BRIGHT = [encode(coloured_pixels(seed) // 2 + 128) for seed in range(40)]


class Clock:
    def __init__(self) -> None:
        self.at = 1_000_000.0

    def __call__(self) -> float:
        return self.at


class Worker:
    """One worker: a pool that serves v1 and v2, a data plane, and what watches it."""

    def __init__(self, folder: Path, reference: Reference | None, clock: Clock) -> None:
        self.registry = CollectorRegistry()
        self.monitor = DriftMonitor(
            folder, DriftMetrics(self.registry), window=100, rules=Rules(0.01), now=clock
        )
        telemetry = telemetry_of(self.registry, drift=self.monitor)

        def load(version: str) -> ServedModel:
            model = served(version, StubModel())
            model.reference = None if version == "v_old" else reference
            return model

        self.models = ModelPool(load, grace_s=5)
        self.decoders = DecodeBudget(2)
        self.classifier = DataPlane(
            self.models, self.decoders, LIMITS, telemetry.on_answer, measures=True
        )
        self.context = context_of(self.classifier, telemetry=telemetry)

    async def ask(self, images: list[bytes], times: int = 1) -> None:
        for _ in range(times):
            for first in range(0, len(images), 8):
                await self.classifier.infer(InferRequest(images=images[first : first + 8]))

    async def follow(self) -> dict[str, Any]:
        await self.monitor.follow(self.models.current)
        return self.monitor.reply()

    def metric(self, name: str, *labels: str) -> float | None:
        keys = ("feature", "window") if len(labels) == 2 else ("feature",)
        return self.registry.get_sample_value(name, dict(zip(keys, labels, strict=True)))


@pytest.fixture
async def reference(tmp_path: Path) -> Reference:
    """Of the usual images, as the stub answers them."""
    rows: list[tuple[float, ...]] = []
    worker = Worker(tmp_path / "none", None, Clock())
    await worker.models.follow(DesiredVersion("v1"))

    def note(answer: Any, _: Any) -> None:
        model = answer.model
        for row, measures in zip(answer.outputs(), answer.measures, strict=True):
            rows.append(
                (
                    float(row.probabilities.max()), row.distance, int(row.probabilities.argmax()),
                    model.accepts(row), measures.brightness, measures.contrast,
                    measures.aspect_ratio, measures.megapixels, measures.format,
                    measures.quantization,
                )
            )  # fmt: skip

    plane = DataPlane(worker.models, worker.decoders, LIMITS, note, measures=True)
    for first in range(0, 40, 8):
        await plane.infer(InferRequest(images=USUAL[first : first + 8]))
    await worker.models.close()
    return Reference.of_rows(np.array(rows * 5), LABELS)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@asynccontextmanager
async def working(
    folder: Path, reference: Reference | None, clock: Clock, version: str = "v1"
) -> AsyncIterator[Worker]:
    worker = Worker(folder, reference, clock)
    await worker.models.follow(DesiredVersion(version))
    await worker.follow()
    yield worker
    await worker.monitor.close()
    await worker.models.close()
    worker.decoders.close()


async def test_usual_images_raise_no_alarm_and_bright_ones_do(
    tmp_path: Path, reference: Reference, clock: Clock
) -> None:
    async with working(tmp_path, reference, clock) as worker:
        await worker.ask(USUAL, times=4)
        drift = DriftReply.model_validate(await worker.follow()).drift
        assert drift is not None
        assert (drift.images, drift.alarm, drift.windows.recent) == (160, None, 160)
        assert drift.accepted.recent == pytest.approx(drift.accepted.reference)
        assert worker.metric("vgg19_drift_alarm", "brightness") == 0
        clock.at += 10
        await worker.ask(BRIGHT, times=4)
        drift = DriftReply.model_validate(await worker.follow()).drift
        assert drift is not None
        assert drift.alarm is not None
        assert drift.alarm.at == clock.at
        assert "brightness" in drift.alarm.features
        assert "format" not in drift.alarm.features
        brightness = drift.features[NAMES.index("brightness")]
        assert brightness.windows.recent is not None
        assert brightness.windows.recent.psi > 1
        assert worker.metric("vgg19_drift_alarm", "brightness") == 1
        shown = worker.metric("vgg19_drift_psi", "brightness", "recent")
        assert shown == brightness.windows.recent.psi


@pytest.fixture
def outbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Outbox:
    """The queue of events, whose receiver is away."""
    monkeypatch.setenv("VGG19_EVENTS_URL", "https://hooks.example.org/")
    monkeypatch.setenv("VGG19_EVENTS_KEY_FILE", str(tmp_path / "events.key"))
    monkeypatch.setenv("VGG19_EVENTS_QUEUE", str(tmp_path / "queue"))
    return Outbox(tmp_path / "queue")


def events(outbox: Outbox) -> list[dict[str, Any]]:
    return [json.loads(path.read_bytes()) for path in outbox.waiting()]


async def test_each_alarm_is_told_as_an_event_once(
    tmp_path: Path, reference: Reference, clock: Clock, outbox: Outbox
) -> None:
    async with working(tmp_path, reference, clock) as worker:
        await worker.ask(BRIGHT, times=4)
        alarm = (await worker.follow())["drift"]["alarm"]
        told = events(outbox)
        assert {event["type"] for event in told} == {"vgg19.drift.detected"}
        assert {event["subject"] for event in told} == {"vgg19:v1"}
        assert {event["time"] for event in told} == {"1970-01-12T13:46:40Z"}
        assert [event["data"]["feature"] for event in told] == alarm["features"]
        assert told[0]["data"]["images"] == 160
        for path in outbox.waiting():  # delivered
            outbox.remove(path)
        clock.at += 100
        await worker.ask(BRIGHT)
        await worker.follow()
    async with working(tmp_path, reference, clock) as worker:
        assert (await worker.follow())["drift"]["alarm"]
    assert events(outbox) == []


async def test_an_alarm_that_a_killed_worker_left_untold_is_told_by_the_next(
    tmp_path: Path, reference: Reference, clock: Clock, outbox: Outbox
) -> None:
    async with working(tmp_path, reference, clock) as worker:
        outbox.directory.write_text("")  # no queue can be there
        await worker.ask(BRIGHT, times=4)
        alarm = (await worker.follow())["drift"]["alarm"]
    outbox.directory.unlink()
    clock.at += 100
    async with working(tmp_path, reference, clock) as worker:
        await worker.follow()
        told = events(outbox)
    assert [event["data"]["feature"] for event in told] == alarm["features"]
    assert told[0]["id"] == f"v1-{alarm['features'][0]}-1000000"


async def test_requests_count_before_it_has_looked_for_the_first_time(
    tmp_path: Path, reference: Reference, clock: Clock
) -> None:
    worker = Worker(tmp_path, reference, clock)
    await worker.models.follow(DesiredVersion("v1"))
    worker.monitor.adopt(worker.models.current)
    await worker.ask(USUAL[:8])
    assert (await worker.follow())["drift"]["images"] == 8
    await worker.monitor.close()
    await worker.models.close()
    worker.decoders.close()


async def test_workers_count_together(tmp_path: Path, reference: Reference, clock: Clock) -> None:
    async with (
        working(tmp_path, reference, clock) as first,
        working(tmp_path, reference, clock) as second,
    ):
        await first.ask(USUAL)
        await second.ask(USUAL[:24])
        await first.follow()
        await second.follow()
        replies = [(await worker.follow())["drift"] for worker in (first, second)]
        assert [reply["images"] for reply in replies] == [64, 64]
        labels = replies[0]["features"][NAMES.index("label")]
        assert sum(group["recent"] for group in labels["groups"]) == pytest.approx(1)
        assert labels["images_tested"] == 64


async def test_nothing_is_lost_or_counted_twice_from_start_to_start(
    tmp_path: Path, reference: Reference, clock: Clock
) -> None:
    for start in range(3):
        async with working(tmp_path, reference, clock) as worker:
            await worker.ask(USUAL)
            before = worker.monitor.reply()["drift"]
            assert before is None or before["images"] == 40 * start
    async with working(tmp_path, reference, clock) as worker:
        assert (await worker.follow())["drift"]["images"] == 120


async def test_a_full_disk_loses_no_images(
    tmp_path: Path, reference: Reference, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async with working(tmp_path, reference, clock) as worker:
        for method in ("_replace", "save"):  # of what was counted, and of what comes of it
            with monkeypatch.context() as patched:
                patched.setattr(DriftStore, method, full)
                for _ in range(3):
                    await worker.ask(USUAL[:8])
                    with pytest.raises(OSError, match="No space left"):
                        await worker.follow()
        assert (await worker.follow())["drift"]["images"] == 48
        clock.at += 100
        assert (await worker.follow())["drift"]["images"] == 48


async def test_another_model_begins_anew(
    tmp_path: Path, reference: Reference, clock: Clock
) -> None:
    async with working(tmp_path, reference, clock) as worker:
        await worker.ask(BRIGHT, times=4)
        assert (await worker.follow())["drift"]["alarm"]
        await worker.models.load("v2")
        await worker.classifier.infer(InferRequest(images=USUAL[:8], version="v2"))
        assert (await worker.follow())["drift"]["images"] == 160  # v2 isn't the current one
        await worker.models.follow(DesiredVersion("v2"))
        await worker.follow()
        await worker.ask(USUAL[:8])
        reply = await worker.follow()
        assert (reply["model_version"], reply["drift"]["images"]) == ("v2", 8)
        assert reply["drift"]["alarm"] is None
        assert worker.metric("vgg19_drift_alarm", "brightness") == 0


async def test_a_day_without_an_image_is_not_shown_any_more(
    tmp_path: Path, reference: Reference, clock: Clock
) -> None:
    async with working(tmp_path, reference, clock) as worker:
        await worker.ask(BRIGHT)
        await worker.follow()
        psi = worker.metric("vgg19_drift_psi", "brightness", "day")
        assert psi is not None
        assert psi > 1
        clock.at += 25 * 3600
        await worker.follow()
        shown = {
            window: worker.metric("vgg19_drift_psi", "brightness", window)
            for window in ("recent", "day")
        }
    assert shown == {"recent": psi, "day": pytest.approx(math.nan, nan_ok=True)}


async def test_a_model_without_a_reference_says_so(
    tmp_path: Path, reference: Reference, clock: Clock
) -> None:
    async with working(tmp_path, reference, clock, "v1") as worker:
        await worker.ask(BRIGHT, times=4)
        await worker.follow()
        await worker.models.follow(DesiredVersion("v_old"))
        await worker.follow()
        await worker.ask(USUAL[:8])
        reply = DriftReply.model_validate(await worker.follow())
        assert not reply.watched
        assert reply.drift is None
        assert reply.reason is not None
        assert "v_old has no reference: it was trained before there was any" in reply.reason
        assert worker.metric("vgg19_drift_alarm", "brightness") == 0
        psi = worker.metric("vgg19_drift_psi", "brightness", "recent")
        assert psi is not None
        assert np.isnan(psi)


async def test_pixels_of_a_client_tell_less(
    tmp_path: Path, reference: Reference, clock: Clock
) -> None:
    pixels = np.stack([coloured_pixels(seed) for seed in range(8)])
    async with working(tmp_path, reference, clock) as worker:
        await worker.classifier.infer(InferRequest(pixels=pixels))
        features = (await worker.follow())["drift"]["features"]
        tested = {feature["name"]: feature["images_tested"] for feature in features}
        assert {name for name, count in tested.items() if count == 8} == set(NAMES[:6])
        assert {name for name, count in tested.items() if count == 0} == set(
            NAMES[6:-1]
        )  # all are PNGs


async def test_over_http(tmp_path: Path, reference: Reference, clock: Clock) -> None:
    async with working(tmp_path, reference, clock) as worker:
        app = create_app()
        app.state.context = worker.context
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            await client.post("/classify", content=USUAL[0], headers={"content-type": "image/png"})
            await worker.follow()
            reply = DriftReply.model_validate((await client.get("/drift")).json())
            assert reply.drift is not None
            assert reply.drift.images == 1
            app.state.context = context_of(worker.classifier)
            off = await client.get("/drift")
            assert off.status_code == 404
            assert "VGG19_DRIFT is off" in off.json()["detail"]


def test_what_was_taken_when_a_worker_died_is_not_taken_again(tmp_path: Path) -> None:
    store, counts = DriftStore(tmp_path), np.array([1, 2])
    for _ in range(3):
        store.spool(counts, 3)
    names, total, images = store.spooled(store.state(), 2)
    assert (total.tolist(), images) == ([3, 6], 9)
    files = {path.name: path.read_bytes() for path in (tmp_path / "spool").iterdir()}
    store.save({"any": np.zeros(1)}, names, {"updated": 1})
    for name in names[1:]:  # as if it had died before it removed these
        (tmp_path / "spool" / name).write_bytes(files[name])
    store.spool(counts, 3)
    _, total, images = store.spooled(store.state(), 2)
    assert (total.tolist(), images) == ([1, 2], 3)


def test_damaged_files_cost_what_is_in_them(tmp_path: Path) -> None:
    store = DriftStore(tmp_path)
    store.spool(np.array([1, 2]), 3)
    (tmp_path / "spool" / "0.npz").write_bytes(b"PK")
    (tmp_path / "state.npz").write_bytes(b"")
    (tmp_path / "summary.json").write_text("{")
    assert (store.state(), store.summary()) == (None, None)
    names, total, images = store.spooled(None, 2)
    assert (len(names), total.tolist(), images) == (2, [1, 2], 3)
    store.save({}, names, {"updated": 1})
    assert list((tmp_path / "spool").iterdir()) == []
    assert store.summary() == {"updated": 1}


def test_one_worker_writes_at_a_time(tmp_path: Path) -> None:
    with DriftStore(tmp_path).lead() as first, DriftStore(tmp_path).lead() as second:
        assert (first, second) == (True, False)
    with DriftStore(tmp_path).lead() as again:
        assert again


def test_the_summary_is_json(tmp_path: Path) -> None:
    DriftStore(tmp_path).save({}, [], {"psi": None, "updated": 1.5})
    assert json.loads((tmp_path / "summary.json").read_text()) == {"psi": None, "updated": 1.5}


def test_the_page_lists_every_metric() -> None:
    registry = CollectorRegistry()
    DriftMetrics(registry)
    page = (Path(__file__).parents[3] / "docs" / "drift.md").read_text()
    listed = re.findall(r"^\| `(vgg19_drift_\w+)` \|", page, re.MULTILINE)
    assert listed == [metric.name for metric in registry.collect()]


def test_the_page_describes_every_key_of_the_reply() -> None:
    page = (Path(__file__).parents[3] / "docs" / "drift.md").read_text()
    schema = DriftReply.model_json_schema()
    for part in (schema, *schema["$defs"].values()):
        for name in part["properties"]:
            assert f"`{name}`" in page, name
