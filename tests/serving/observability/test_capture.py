from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from serving.core.dataplane import DataPlane
from serving.core.errors import BadImage, NotFound, Overloaded
from serving.core.requests import InferResponse
from serving.core.statistics import Timings
from serving.core.supervisor import Supervisor
from serving.engine.session import ModelOutput
from serving.observability.capture import Capture, CaptureError, Mode
from testing.images import coloured_pixels, encode
from testing.waiting import HANG_S, wait_until
from tests.serving.conftest import StubModel, served, telemetry_of
from tests.serving.held_files import HeldFileSystem
from tests.serving.http.test_app import PICKLE, app_of, check_problem

IMAGE = encode(coloured_pixels(1))
PNG = {"Content-Type": "image/png"}


def capture_in(
    place: Path | str, mode: Mode = "all", limit_bytes: int = 10**9, **more: Any
) -> Capture:
    options = {"threshold": 0.7, "rate": 0.5} | more
    return Capture(str(place), mode, limit_bytes=limit_bytes, **options)


def answer_of(*rows: Any) -> InferResponse:
    return InferResponse(served("v1", StubModel()), list(rows), Timings(0, 0, 0))


SURE = ModelOutput(np.array([0.9, 0.05, 0.05], np.float32))
UNSURE = ModelOutput(np.array([0.4, 0.35, 0.25], np.float32))


def kept(place: Path, end: str = ".img") -> list[str]:
    return sorted(path.name for path in place.iterdir() if path.name.endswith(end))


def test_image_and_prediction_are_kept_without_a_name_of_the_client(tmp_path: Path) -> None:
    capture = capture_in(tmp_path)
    assert capture.offer([IMAGE, b"no image"], answer_of(SURE, BadImage("x")), "../../etc") == 1
    capture.close()
    (image,) = tmp_path.glob("*.img")
    assert image.read_bytes() == IMAGE
    record = json.loads(image.with_suffix(".json").read_text())
    assert (record["request_id"], record["model_version"], record["image"]) == (
        "../../etc",
        "v1",
        0,
    )
    assert record["predictions"][0] == {"label": "blue", "probability": pytest.approx(0.9)}
    assert "etc" not in image.name
    assert [path.parent for path in tmp_path.rglob("*")] == [tmp_path, tmp_path]


def test_only_the_uncertain_ones(tmp_path: Path) -> None:
    capture = capture_in(tmp_path, "uncertain")
    assert capture.offer([IMAGE] * 3, answer_of(SURE, UNSURE, SURE), "r") == 1
    capture.close()
    assert [name.rpartition("-")[2] for name in kept(tmp_path)] == ["001.img"]


def test_a_share_of_all(tmp_path: Path) -> None:
    capture = capture_in(tmp_path, "sample")
    taken = sum(capture.offer([IMAGE], answer_of(SURE), "r") for _ in range(200))
    capture.close()
    assert 60 < taken < 140


def test_the_oldest_make_room(tmp_path: Path) -> None:
    first = capture_in(tmp_path)
    first.offer([b"x" * 1000], answer_of(SURE), "first")
    first.close()
    capture = capture_in(tmp_path, limit_bytes=10_000)  # it counts what lies there already
    for number in range(40):
        capture.offer([b"x" * 1000], answer_of(SURE), str(number))
    capture.close()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 10_000
    requests = [
        json.loads((tmp_path / n).read_text())["request_id"] for n in kept(tmp_path, ".json")
    ]
    assert requests == [str(number) for number in range(40)][-len(requests) :]
    assert len(requests) >= 6


@pytest.fixture
def held() -> Iterator[type[HeldFileSystem]]:
    """Its gate is open, and is open again at the end, so that no thread waits for ever."""
    HeldFileSystem.reset()
    yield HeldFileSystem
    HeldFileSystem.reset()


@pytest.mark.parametrize("image_bytes", [100, 1000, 99_000, 100_001])
def test_what_waits_for_a_location_that_hangs_is_bounded_in_bytes(
    held: type[HeldFileSystem], image_bytes: int
) -> None:
    held.gate.clear()
    capture = capture_in("held://place", waiting_bytes=100_000)
    image, answer = b"x" * image_bytes, answer_of(SURE)
    taken = sum(capture.offer([image], answer, "r") for _ in range(2000))
    assert taken <= 100_000 // image_bytes
    assert taken >= 100_000 // (image_bytes + 1000)  # its record has a few hundred
    held.gate.set()
    capture.close()
    assert len([name for name in held.store if name.endswith(".img")]) == taken


@pytest.mark.parametrize("waiting", [0, 1, 300, 5000])
def test_a_location_that_hangs_does_not_hold_up_the_end(
    held: type[HeldFileSystem], waiting: int, caplog: pytest.LogCaptureFixture
) -> None:
    """It did where more than 256 images waited: they were closed with one more."""
    held.gate.clear()
    capture, answer = capture_in("held://place"), answer_of(SURE)
    for _ in range(waiting):
        capture.offer([b"x"], answer, "r")
    closing = threading.Thread(target=capture.close, args=(0.2,), daemon=True)
    closing.start()
    closing.join(timeout=HANG_S)
    assert not closing.is_alive()
    assert (f"{waiting} captured images are lost" in caplog.text) == bool(waiting)
    assert capture.offer([b"x"], answer, "r") == 0  # nothing is taken any more


@pytest.mark.parametrize(
    "error",
    [
        OSError("no space left"),
        PermissionError("no"),
        FileNotFoundError("the bucket is gone"),
        ValueError("x"),
        RuntimeError("of a file system's own"),
        MemoryError(),
        KeyError("Contents"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_location_that_fails_is_told_once_and_tried_again(
    held: type[HeldFileSystem], caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    failures: list[str] = []
    supervisor = Supervisor(failures.append, max_pause_s=0.01)
    capture = capture_in("held://place", supervisor=supervisor)
    held.error = error
    for number in range(5):
        capture.offer([IMAGE], answer_of(SURE), str(number))
    wait_until(lambda: len(failures) == 5)
    assert supervisor.failing == ["capture"]
    assert len([r for r in caplog.records if r.levelname in ("WARNING", "ERROR")]) == 1
    assert str(error) in caplog.text
    held.error = None
    capture.offer([IMAGE], answer_of(SURE), "r")
    wait_until(lambda: not supervisor.failing)
    capture.close()
    assert len(held.store) == 2


async def test_labels_for_a_location_that_hangs_hold_up_nothing_else(
    held: type[HeldFileSystem],
) -> None:
    """They took threads of asyncio's own, which v2 requests need as well."""
    capture = capture_in("held://place")
    capture.offer([IMAGE], answer_of(SURE), "r")
    await asyncio.to_thread(wait_until, lambda: len(held.store) == 2)
    held.gate.clear()
    asking = [asyncio.create_task(capture.add_label("r", 0, "rose")) for _ in range(100)]
    await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
    refused = [one for one in asking if one.done()]
    assert len(refused) == 100 - 16
    for one in refused:
        with pytest.raises(Overloaded, match="16 labels wait for VGG19_CAPTURE_URL"):
            one.result()
    assert await asyncio.to_thread(lambda: "free") == "free"
    held.gate.set()
    await asyncio.gather(*(one for one in asking if one not in refused))
    capture.close()


def test_a_location_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for url in (str(tmp_path / "file" / "below"), "nosuchprotocol://x"):
        with pytest.raises(CaptureError, match="VGG19_CAPTURE_URL"):
            Capture(url, "all", threshold=0.5, rate=0.5, limit_bytes=1)


def test_labels_lie_beside_the_image(tmp_path: Path) -> None:
    capture = capture_in(tmp_path)
    capture.offer([IMAGE, IMAGE], answer_of(SURE, SURE), "r1")
    capture.close()
    capture.label("r1", 1, "rose")
    (label,) = tmp_path.glob("*.label.json")
    assert label.name.endswith("-001.label.json")
    assert json.loads(label.read_text())["label"] == "rose"
    with pytest.raises(NotFound, match="request 'r2' is not kept"):
        capture.label("r2", 0, "rose")


class TestOverHttp:
    @pytest.fixture
    def client(self, classifier: DataPlane, tmp_path: Path) -> httpx.AsyncClient:
        capture = capture_in(tmp_path / "kept")
        telemetry = telemetry_of(capture=capture)
        observed = DataPlane(
            classifier.models, classifier._decoders, classifier.limits, telemetry.on_answer
        )
        app = app_of(observed, telemetry=telemetry)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://test")

    async def test_feedback_by_request_id(self, client: httpx.AsyncClient, tmp_path: Path) -> None:
        reply = await client.post("/classify", content=IMAGE, headers=PNG)
        while not list((tmp_path / "kept").glob("*.json")):
            time.sleep(0.01)
        body = {"request_id": reply.headers["x-request-id"], "label": " rose "}
        assert (await client.post("/feedback", json=body)).json() == {"stored": True}
        (label,) = (tmp_path / "kept").glob("*.label.json")
        assert json.loads(label.read_text())["label"] == "rose"
        check_problem(await client.post("/feedback", json=body | {"image": 1}), 404, "is not kept")

    @pytest.mark.parametrize(
        "change",
        [{"label": ""}, {"label": 1}, {"label": "x" * 201}, {"request_id": "a b"}, {"image": -1},
         {"image": True}, {"request_id": "*"}, {"request_id": None}],
    )  # fmt: skip
    async def test_bad_feedback(self, client: httpx.AsyncClient, change: dict[str, Any]) -> None:
        body = {"request_id": "r", "label": "rose"} | change
        check_problem(await client.post("/feedback", json=body), 422, "must be")

    async def test_other_media_types(self, client: httpx.AsyncClient) -> None:
        response = await client.post("/feedback", content=b"{}", headers={"Content-Type": PICKLE})
        check_problem(response, 415, PICKLE)

    async def test_there_is_none_where_nothing_is_kept(self, classifier: DataPlane) -> None:
        transport = httpx.ASGITransport(app_of(classifier))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            reply = await client.post("/feedback", json={"request_id": "r", "label": "rose"})
        check_problem(reply, 404, "VGG19_CAPTURE is off")


def test_files_of_others_are_not_removed(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("stem,label\n" + "x" * 5000)
    capture = capture_in(tmp_path, limit_bytes=3000)
    for number in range(20):
        capture.offer([b"x" * 500], answer_of(SURE), str(number))
    capture.close()
    assert (tmp_path / "labels.csv").exists()
