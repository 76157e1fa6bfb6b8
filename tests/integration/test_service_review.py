"""The page of reviews inside a real service: two workers write one journal; a browser labels."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import expect

from review.journal import JOURNAL_FILE, Journal
from testing import patient
from testing.images import COLOURS, coloured_pixels, encode
from testing.server import Server, serve
from tests.integration.browsing import Open, check_accessibility, needs_chromium
from tests.integration.conftest import refusal

KEY = "open-sesame"
HEADERS = {"authorization": f"Bearer {KEY}", "x-review": "1"}
DIGEST = hashlib.sha256(KEY.encode()).hexdigest()
KEYS = {"blue": "1", "green": "2", "red": "3"}
IMAGES = 9


def settings_of(place: Path) -> dict[str, str]:
    return {
        "VGG19_ADMIN_KEY": DIGEST,
        "VGG19_CAPTURE": "all",
        "VGG19_CAPTURE_URL": str(place / "captured"),
        "VGG19_REVIEW": str(place / "review"),
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reviewed")


@pytest.fixture(scope="module")
def reviewed(tiny_home: Path, place: Path) -> Iterator[Server]:
    """Of two workers, with captured images."""
    with serve(tiny_home, place / "log", VGG19_WORKERS="2", **settings_of(place)) as server:
        for number in range(IMAGES):
            files = {"image": encode(coloured_pixels(number, COLOURS[number % 3]))}
            patient.post(f"{server.url}/classify", files=files)
        while len([*(place / "captured").glob("*.json")]) < IMAGES:
            time.sleep(0.05)
        yield server


def colour_of(image: str, place: Path) -> str:
    for number in range(IMAGES):
        content = encode(coloured_pixels(number, COLOURS[number % 3]))
        if hashlib.sha256(content).hexdigest() == image:
            return COLOURS[number % 3]
    raise AssertionError(image)


@needs_chromium
def test_the_service_s_page_leads_to_it(open_page: Open, reviewed: Server) -> None:
    watched = open_page(f"{reviewed.url}/#production", expected_error="status of 401")
    page = watched.page
    link = page.get_by_role("link", name="Review images")
    expect(link).to_be_visible()
    check_accessibility(page)
    link.click()
    expect(page.get_by_role("heading", name="This page asks for a key")).to_be_visible()
    page.get_by_label("Key", exact=True).fill(KEY)
    page.keyboard.press("Enter")
    expect(page.locator("#classes button")).to_have_count(3)


@needs_chromium
def test_only_the_admin_is_led_there(open_page: Open, tiny_home: Path, tmp_path: Path) -> None:
    keys = {"VGG19_API_KEYS": hashlib.sha256(b"user").hexdigest()}
    with serve(tiny_home, tmp_path / "log", **settings_of(tmp_path), **keys) as server:
        for key, links in ((KEY, 1), ("user", 0)):
            watched = open_page(f"{server.url}/#production", expected_error="status of 401")
            page = watched.page
            page.get_by_label("API key", exact=True).fill(key)
            page.keyboard.press("Enter")
            expect(page.locator("#served-version")).to_contain_text("vgg19")
            expect(page.get_by_role("link", name="Review images")).to_have_count(links)
            page.context.close()


@needs_chromium
def test_labels_by_keyboard(open_page: Open, reviewed: Server, place: Path) -> None:
    watched = open_page(f"{reviewed.url}/review", expected_error="status of 401")
    page = watched.page
    page.get_by_label("Key", exact=True).fill(KEY)
    page.keyboard.press("Enter")
    # The tiny model gives no features: labels can't help that, and none are asked for.
    expect(page.locator("#accuracy-words")).to_contain_text("exported without distances")
    expect(page.locator("#batch-words")).to_have_text(f"0 of {IMAGES} images have a label")
    page.get_by_label("You are").fill("Ann")
    page.keyboard.press("Enter")
    answered: dict[str, str] = {}
    for _ in range(IMAGES):
        expect(page.locator("body")).not_to_have_class("busy")
        image = str(page.locator("#one").get_attribute("data-image"))
        answered[image] = colour_of(image, place)
        page.keyboard.press(KEYS[answered[image]])
        page.wait_for_function(
            """(before) => !document.body.classList.contains("busy")
                && (document.querySelector("#one").dataset.image !== before
                    || document.querySelector("#one").hidden)""",
            arg=image,
        )
    expect(page.get_by_role("heading", name="Nothing waits here")).to_be_visible()
    expect(page.locator("#elsewhere")).to_contain_text("vgg19 redeploy --config redeploy.yaml")
    expect(page.get_by_role("button", name="For Label Studio")).to_be_hidden()
    page.get_by_role("button", name="Hand over the labels").click()
    expect(page.locator("#job")).to_contain_text(f"{IMAGES} images have a label")
    check_accessibility(page)
    assert page.url == f"{reviewed.url}/review/"
    journal = Journal(place / "review" / JOURNAL_FILE)
    said = {image: journal.standing(image).decided.label for image in answered}  # type: ignore[union-attr]
    assert said == answered
    assert len((place / "captured/labels.csv").read_text().splitlines()) == IMAGES + 1


@pytest.mark.exhaustive
def test_two_workers_and_a_kill_lose_no_label(tiny_home: Path, tmp_path: Path) -> None:
    """What was confirmed is in the journal, whichever worker wrote it and however that ended."""
    for number in range(4):
        stem = f"{number:020d}-{'a' * 16}-000"
        folder = tmp_path / "captured"
        folder.mkdir(exist_ok=True)
        (folder / f"{stem}.img").write_bytes(encode(coloured_pixels(number)))
        record = {"predictions": [{"label": "red", "probability": 0.5}]}
        (folder / f"{stem}.json").write_text(json.dumps(record))
    confirmed: list[tuple[int, str]] = []

    def label(who: int) -> None:
        with patient.client(base_url=f"{server.url}/review/", headers=HEADERS) as client:
            for number in range(60):
                sent = {
                    "image": images[number % 4], "kind": "label", "label": f"{who}-{number}",
                    "who": f"person {who}",
                }  # fmt: skip
                try:
                    reply = client.post("api/decisions", json={"decisions": [sent]})
                except httpx.HTTPError:
                    continue  # its worker was killed
                for taken in reply.json().get("taken", ()):
                    decision: dict[str, Any] = taken["decision"]
                    confirmed.append((decision["revision"], decision["label"]))

    with (
        serve(tiny_home, tmp_path / "log", VGG19_WORKERS="2", **settings_of(tmp_path)) as server,
        ThreadPoolExecutor(6) as people,
    ):
        found = patient.get(f"{server.url}/review/api/queue?count=4", headers=HEADERS).json()
        images = [card["image"] for card in found["cards"]]
        working = [people.submit(label, who) for who in range(6)]
        while len(confirmed) < 60 and not all(one.done() for one in working):
            time.sleep(0.01)
        server.workers()[0].kill()
        for one in working:
            one.result()
    lines = (tmp_path / "review" / JOURNAL_FILE).read_text().splitlines()
    written = [json.loads(line) for line in lines if line.endswith("}")]
    revisions = [line["revision"] for line in written]
    assert revisions == [*range(1, len(written) + 1)]
    assert {(line["revision"], line["label"]) for line in written} >= set(confirmed)
    assert len(set(confirmed)) == len(confirmed) >= 60


def test_a_read_only_folder_is_told_at_start(tiny_home: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    settings = settings_of(tmp_path) | {"VGG19_REVIEW": str(tmp_path / "file" / "review")}
    assert "VGG19_REVIEW can't be used" in refusal(tiny_home, **settings)
