"""A shadow beside real requests: whatever it does, they are answered as ever."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from socket import gethostname

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from models.events.outbox import Outbox
from models.registry.tallies import ShadowTally, read_pictures, read_tallies
from serving.core.dataplane import DataPlane
from serving.core.pool import DesiredVersion, ModelPool
from serving.core.requests import InferRequest
from serving.engine.right_of_way import Traffic
from serving.observability.metrics import Metrics
from serving.rollout.idle_time import REQUESTS_A_MEETING
from serving.rollout.process import CandidateProcess
from serving.rollout.recorder import Recorder, image_key
from serving.rollout.shadow import Shadow
from testing.bundles import tiny_probabilities
from testing.images import coloured_pixels, encode
from testing.waiting import HANG_S
from tests.serving.conftest import StubModel, served
from tests.serving.rollout.conftest import Command

ROLLOUT = "a1"
PIXELS = np.stack([coloured_pixels(seed, "red") for seed in range(4)])
AGREES = "ready()\nwhile True: hear(); answer()"
DIFFERS = "ready()\nwhile True: hear(); answer('blue', 0.1)"


class Bench:
    """A data plane whose model v1 answers, with a shadow v2 that does what it is told."""

    def __init__(
        self, classifier: DataPlane, traffic: Traffic, directory: Path, command: Command
    ) -> None:
        self.classifier = classifier
        self.traffic = traffic
        self.directory = directory
        self.registry = CollectorRegistry()
        self._metrics = Metrics(self.registry)
        self._command = command
        self.shadow: Shadow | None = None

    def begin(self, lines: str, timeout_s: float = 60.0, *, pictures: bool = False) -> Shadow:
        recorder = Recorder(self.directory, ROLLOUT, keeps_pictures=pictures)
        start = lambda: CandidateProcess(self._command(lines))  # noqa: E731
        self.shadow = Shadow(
            "v2", "v1", start, self.traffic, recorder, self._metrics, timeout_s=timeout_s
        )
        self.classifier.watcher = self.shadow.offer
        return self.shadow

    async def ask(self) -> None:
        """One request, whose answer must be the model's own."""
        answer = await self.classifier.infer(InferRequest(pixels=PIXELS))
        np.testing.assert_allclose(answer.probabilities, tiny_probabilities(PIXELS), atol=1e-6)

    def counted(self, outcome: str) -> float:
        labels = {"version": "v2", "outcome": outcome}
        return self.registry.get_sample_value("vgg19_shadow_images_total", labels) or 0.0


@pytest.fixture
async def bench(
    model: StubModel, classifier: DataPlane, tmp_path: Path, command: Command
) -> AsyncIterator[Bench]:
    traffic = Traffic()
    pool = ModelPool(lambda version: served(version, model, traffic=traffic), grace_s=5)
    await pool.follow(DesiredVersion("v1"))
    classifier.models = pool
    bench = Bench(classifier, traffic, tmp_path, command)
    yield bench
    if bench.shadow is not None:
        bench.shadow.close()
    await pool.close()


async def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + HANG_S
    while not holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


async def test_both_answers_are_compared(bench: Bench) -> None:
    recorder = bench.begin(AGREES).recorder
    await until(lambda: recorder.state == "running")
    await bench.ask()
    await until(lambda: bench.counted("agreed") == 4)  # what a comparison ends with
    assert recorder.seen.images == 4
    assert recorder.seen.agreement == 1
    assert recorder.seen.candidate.distance == pytest.approx(4 * 0.5)
    assert recorder.seen.production.distances == 4


async def test_times_of_a_request_of_many_images_are_compared(bench: Bench) -> None:
    """The first image is run in a batch as large as production's; the others tell no time."""
    lines = (
        "ready()\nwhile True:\n question, image = hear()\n"
        " say(label='red', confidence=0.9, accepted=True, distance=None, of_label=0.9,"
        " inference_s=0.5 * question['batch'])"
    )
    recorder = bench.begin(lines).recorder
    await until(lambda: recorder.state == "running")
    bench.classifier.models.current.last_run = lambda: (4, 1e-5)
    await bench.ask()
    await until(lambda: recorder.seen.images == 4)
    production, candidate = recorder.seen.production.alone, recorder.seen.candidate.alone
    assert (production.count, candidate.count) == (1, 1)
    assert production.median_s == pytest.approx(1e-5 / 4, rel=0.02)
    assert candidate.median_s == pytest.approx(0.5, rel=0.02)


@pytest.mark.parametrize(
    ("lines", "timeout_s", "reason"),
    [
        ("say(failed='it is damaged')", 60, "it can't be loaded: it is damaged"),
        ("sys.exit(1)", 60, "its process ended with exit code 1"),
        ("ready(); hear(); os.kill(os.getpid(), signal.SIGSEGV)", 60, "ended by SIGSEGV"),
        ("ready(); hear(); time.sleep(600)", 0.2, r"an image took more than 0\.2 s"),
        ("ready(); hear(); say(label='red')", 60, "an internal error"),
        (
            "ready()\nwhile True: hear(); say(failure='invalid', reason='NaN')",
            60,
            "20 images in a row failed, the last one: NaN",
        ),
    ],
)
async def test_a_shadow_that_fails_is_disabled_and_touches_no_request(
    bench: Bench, lines: str, timeout_s: float, reason: str
) -> None:
    shadow = bench.begin(lines, timeout_s=timeout_s)
    recorder = shadow.recorder
    await until(lambda: recorder.state != "loading")
    deadline = time.monotonic() + HANG_S
    while recorder.state != "failed":
        assert time.monotonic() < deadline
        for _ in range(REQUESTS_A_MEETING):  # so many that it may be met once more
            await bench.ask()
        await asyncio.sleep(2 * timeout_s if timeout_s < 1 else 0.01)  # a gap, to hang in
        shadow.check()
    await bench.ask()
    await until(lambda: bench.registry.get_sample_value("vgg19_shadow_failed", {"version": "v2"}))
    assert re.search(reason, recorder.reason)


async def test_a_shadow_that_is_disabled_tells_it_once(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VGG19_EVENTS_URL", "https://hooks.example.org/")
    monkeypatch.setenv("VGG19_EVENTS_KEY_FILE", str(tmp_path / "events.key"))
    monkeypatch.setenv("VGG19_EVENTS_QUEUE", str(tmp_path / "queue"))
    outbox = Outbox(tmp_path / "queue")
    shadow = bench.begin("say(failed='it is damaged')")
    await until(outbox.waiting)
    shadow.check()
    await bench.ask()
    shadow.close()
    (event,) = [json.loads(path.read_bytes()) for path in outbox.waiting()]
    assert (event["type"], event["subject"]) == ("vgg19.shadow.disabled", "vgg19:v2")
    assert event["data"] == {
        "model": "vgg19:v2",
        "host": gethostname(),
        "why": "it can't be loaded: it is damaged",
    }


async def test_while_requests_are_under_way_it_stands_still_and_drops_what_has_no_room(
    bench: Bench,
) -> None:
    recorder = bench.begin(AGREES).recorder
    await until(lambda: recorder.state == "running")
    bench.traffic.enter()  # one that goes on for long
    for _ in range(20):
        await bench.ask()
    assert recorder.seen.images == 0
    assert recorder.seen.dropped == 16  # of 80, where 64 may wait
    bench.traffic.leave()
    await until(lambda: recorder.seen.images == 64)
    assert bench.counted("dropped") == 16


async def test_loading_gives_way_as_well(bench: Bench) -> None:
    bench.traffic.enter()
    shadow = bench.begin(AGREES, timeout_s=0.01)
    await asyncio.sleep(0.2)
    shadow.check()
    assert shadow.recorder.state == "loading"
    bench.traffic.leave()
    await until(lambda: shadow.recorder.state == "running")


async def test_answers_of_other_versions_are_not_compared(bench: Bench) -> None:
    recorder = bench.begin(AGREES).recorder
    await until(lambda: recorder.state == "running")
    await bench.classifier.models.load("v3")
    await bench.classifier.infer(InferRequest(pixels=PIXELS, version="v3"))
    await bench.ask()
    await until(lambda: recorder.seen.images == 4)


async def test_images_of_another_size_are_decoded_again_and_pixels_are_skipped(
    bench: Bench,
) -> None:
    lines = (
        "say(preprocessing={}, stops_at_once=True)\nwhile True:\n question, image = hear()\n"
        " answer() if question['encoded'] and image[1:4] == b'PNG' else sys.exit(9)"
    )
    recorder = bench.begin(lines).recorder
    await until(lambda: recorder.state == "running")
    await bench.classifier.infer(InferRequest(images=[encode(PIXELS[0]), b"not an image"]))
    await bench.ask()
    await until(lambda: recorder.seen.skipped == 4)
    assert recorder.seen.images == 1


async def test_what_differs_is_shown_where_images_may_be_kept(bench: Bench) -> None:
    for pictures in (False, True):
        shadow = bench.begin(DIFFERS, pictures=pictures)
        await until(lambda s=shadow: s.recorder.state == "running")  # type: ignore[misc]
        await bench.ask()
        await until(lambda s=shadow: s.recorder.seen.images == 4)  # type: ignore[misc]
        shadow.close()  # an image is counted before its picture is kept
        shadow.recorder.write()
        assert len(read_pictures(bench.directory, ROLLOUT)) == (4 if pictures else 0)
    picture = read_pictures(bench.directory, ROLLOUT)[0]
    assert (picture.production, picture.candidate) == ("red", "blue")
    assert picture.difference == pytest.approx(picture.production_confidence - 0.1)


async def test_a_label_told_to_another_worker_counts_once(bench: Bench) -> None:
    recorder = bench.begin(DIFFERS).recorder
    other = Recorder(bench.directory, ROLLOUT, keeps_pictures=False)
    await until(lambda: recorder.state == "running")
    await bench.ask()
    await until(lambda: recorder.seen.images == 4)
    other.add_label(image_key("", 0), "red")
    recorder.add_label(image_key("", 1), "blue")
    recorder.add_label(image_key("", 2), "green")
    recorder.add_label(image_key("", 2), "green")
    recorder.add_label(image_key("never seen", 0), "green")
    other.write()
    for _ in range(2):
        recorder.write()
    seen = recorder.seen.labelled
    assert (seen.production, seen.candidate, seen.neither, seen.both) == (1, 1, 1, 0)
    tallies = read_tallies(bench.directory, ROLLOUT, ShadowTally)
    assert sorted(tally.comparison.images for tally in tallies) == [0, 4]
