"""A review of captured images inside the service, without its transports."""

from __future__ import annotations

import asyncio
import csv
import json
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.errors import UserError
from review.desk import NotNow
from review.journal import JOURNAL_FILE, Decision, Journal
from serving.core.pool import DesiredVersion, ModelPool
from serving.core.served_model import ServedModel
from serving.core.supervisor import Supervisor
from serving.review import desk as room
from serving.review import images
from serving.review.desk import ReviewError, ServiceDesk, open_journal
from testing.images import COLOURS, coloured_pixels, encode
from testing.waiting import HANG_S, wait_until
from tests.serving.conftest import StubModel, served


def capture(place: Path, number: int, probability: float = 0.6, label: str | None = None) -> None:
    """An image of `COLOURS[number % 3]`, of which the model has said something else."""
    place.mkdir(exist_ok=True)
    stem = f"{number:020d}-{'a' * 16}-000"
    (place / f"{stem}.img").write_bytes(encode(coloured_pixels(number, COLOURS[number % 3])))
    predictions = [
        {"label": COLOURS[(number + 1) % 3], "probability": probability},
        {"label": COLOURS[(number + 2) % 3], "probability": 1 - probability},
    ]
    (place / f"{stem}.json").write_text(json.dumps({"predictions": predictions}))
    if label is not None:
        (place / f"{stem}.label.json").write_text(json.dumps({"label": label}))


def means(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Features that tell the colours apart."""
    found: NDArray[np.float32] = pixels.mean(axis=(0, 1), dtype=np.float32) / 255
    return found


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """12 images, of which the later ones are the less certain."""
    for number in range(12):
        capture(tmp_path / "captured", number, probability=0.95 - number / 50)
    return tmp_path


@pytest.fixture
async def desk_of(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[..., Any]]:
    """Makes desks over `place`. `features`: what the served model gives; None: nothing."""
    monkeypatch.setattr(room, "_LOOK_EVERY_S", 0.05)
    made: list[ServiceDesk] = []

    async def make(features: Any = means) -> ServiceDesk:
        def load(version: str) -> ServedModel:
            model = served(version, StubModel())
            model.features = features
            return model

        models = ModelPool(load, grace_s=1)
        await models.follow(DesiredVersion("v1"))
        desk = ServiceDesk(place / "review", str(place / "captured"), models, Supervisor())
        made.append(desk)
        return desk

    yield make
    for desk in made:
        await asyncio.to_thread(desk.close)


async def until(desk: ServiceDesk, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The overview, once it says so."""
    async with asyncio.timeout(HANG_S):
        while not holds(found := await asyncio.to_thread(desk.overview)):
            await asyncio.sleep(0.025)
    return found


def number_of(name: str) -> int:
    return int(name[:20])


def says(card: Any, label: str) -> Decision:
    return Decision(card.image, "label", "Ann", label, base=card.standing.revision)


async def test_without_features_the_least_certain_come_first(desk_of: Callable[..., Any]) -> None:
    desk = await desk_of(features=None)
    cards = await asyncio.to_thread(desk.queue, "tab", "all", 50)
    assert [number_of(card.name) for card in cards] == [*range(11, -1, -1)]
    assert cards[0].suggested[0] == (COLOURS[0], pytest.approx(0.73))
    for card in cards:
        desk.decide([says(card, COLOURS[number_of(card.name) % 3])])
    assert (desk.overview()["fit"], desk.overview()["features"]) == (None, None)
    assert desk.overview()["labelled"] == 12


async def test_how_far_the_first_look_is_is_told(desk_of: Callable[..., Any]) -> None:
    """Or the page would say that labels are missing, however many there are."""
    go_on = threading.Semaphore(5)

    def slow(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        go_on.acquire()
        return means(pixels)

    desk = await desk_of(slow)
    found = await until(desk, lambda found: found["features"]["ready"] == 5)
    assert found["features"] == {"ready": 5, "images": 12}
    go_on.release(20)
    await until(desk, lambda found: bool(desk._session._pool.features))
    assert desk.overview()["features"] == {"ready": 12, "images": 12}


async def test_with_features_of_the_served_model_labels_are_learnt_from(
    desk_of: Callable[..., Any], place: Path
) -> None:
    desk = await desk_of()
    await until(desk, lambda found: bool(desk._session._pool.features))
    cards = await asyncio.to_thread(desk.queue, "tab", "all", 10)
    for card in cards:
        desk.decide([says(card, COLOURS[number_of(card.name) % 3])])
    found = await until(desk, lambda found: found["fit"] is not None)
    assert (found["fit"]["depth"], found["fit"]["labels"]) == ("FC2", 10)
    capture(place / "captured", 12)  # while the page is open
    found = await until(desk, lambda found: found["images"] == 13)
    left = await asyncio.to_thread(desk.queue, "tab", "new", 50)
    best = {number_of(card.name): card.suggested[0][0] for card in left}
    assert best == {number: COLOURS[number % 3] for number in best}
    assert 12 in best
    assert found["decided"] == 10


async def test_labels_that_feedback_told_count_and_waiting_images_are_limited(
    desk_of: Callable[..., Any], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "MOST_WAITING", 3)
    capture(place / "captured", 0, label="red")
    desk = await desk_of(features=None)
    found = await asyncio.to_thread(desk.overview)
    assert (found["images"], found["labelled"]) == (4, 1)
    cards = await asyncio.to_thread(desk.queue, "tab", "all", 50)
    assert [number_of(card.name) for card in cards] == [11, 10, 9]


async def test_labels_are_laid_beside_the_images(desk_of: Callable[..., Any], place: Path) -> None:
    desk = await desk_of(features=None)
    card, other = await asyncio.to_thread(desk.queue, "tab", "all", 2)
    desk.decide([says(card, "a zebra"), Decision(other.image, "none", "Ann")])
    await asyncio.to_thread(desk.start, "lay")
    with (place / "captured/labels.csv").open() as file:
        assert [*csv.DictReader(file)] == [{"stem": card.name, "label": "a zebra"}]
    last = desk.overview()["jobs"]["last"]
    assert (last["state"], last["lines"]) == (
        "done", [f"1 images have a label in {place / 'captured'}/labels.csv"],
    )  # fmt: skip
    assert desk.export("labels")[1].decode().splitlines()[1] == f"{card.name},a zebra"
    with pytest.raises(NotNow, match="no form of export; there are labels"):
        desk.export("label-studio")
    with pytest.raises(NotNow, match="no job 'challenger'; there is lay"):
        desk.start("challenger")


async def test_a_heat_map_is_the_served_models(desk_of: Callable[..., Any]) -> None:
    desk = await desk_of(features=None)
    (card,) = await asyncio.to_thread(desk.queue, "tab", "all", 1)
    made = await asyncio.to_thread(desk.heat_map, card.image, "red")
    assert made.startswith(b"\x89PNG")
    with pytest.raises(NotNow, match="v1, which serves, doesn't know 'zebra'"):
        await asyncio.to_thread(desk.heat_map, card.image, "zebra")


async def test_a_location_that_is_not_there_is_told(
    desk_of: Callable[..., Any], place: Path
) -> None:
    (place / "captured").rename(place / "elsewhere")
    desk = await desk_of()
    with pytest.raises(Exception, match="there is nothing at .*captured"):
        await asyncio.to_thread(desk.overview)
    (place / "elsewhere").rename(place / "captured")

    def is_found_again() -> bool:
        with suppress(UserError):
            return bool(desk.overview()["images"] == 12)
        return False

    await asyncio.to_thread(wait_until, is_found_again)


async def test_what_is_removed_while_it_is_reviewed_is_gone(
    desk_of: Callable[..., Any], place: Path
) -> None:
    desk = await desk_of()
    await asyncio.to_thread(desk.overview)
    for file in (place / "captured").glob(f"{3:020d}*"):
        file.unlink()
    await until(desk, lambda found: found["images"] == 11)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ReviewError, match="^VGG19_REVIEW can't be used: .*mounted volume$"):
        open_journal(tmp_path / "file" / "review")


async def test_the_journal_is_that_of_vgg19_review(
    desk_of: Callable[..., Any], place: Path
) -> None:
    desk = await desk_of(features=None)
    (card,) = await asyncio.to_thread(desk.queue, "tab", "all", 1)
    desk.decide([says(card, "red")])
    journal = Journal(place / "review" / JOURNAL_FILE)
    assert journal.standing(card.image).decided is not None
