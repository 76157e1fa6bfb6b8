"""The page of `vgg19 review`, driven in a real browser."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect

from review.app import make_app
from review.guard import own_hosts
from review.journal import Decision, Journal
from review.session import Session
from testing.ports import free_port
from tests.integration.browsing import PHONE, WAIT_MS, needs_chromium
from tests.review.made_up import colour_of, make_pool, make_session

pytestmark = needs_chromium
DESKTOP = {"width": 1280, "height": 860}
KEYS = {"blue": "1", "green": "2", "red": "3"}

Open = Callable[..., Page]


_opened: list[BrowserContext] = []


def close_pages() -> None:
    while _opened:
        _opened.pop().close()


@contextmanager
def serve_page(session: Session, key: str | None = None) -> Iterator[str]:
    """The page's address. Pages are closed before their server: one that asks it now and then would
    complain."""
    port = free_port()
    app = make_app(session, own_hosts("127.0.0.1", port), key)
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{port}/"
    finally:
        close_pages()
        server.should_exit = True
        thread.join()
        session.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """Opens pages, none of which may complain."""
    errors: list[str] = []

    def open_(url: str, expected_error: str = "never", **options: Any) -> Page:
        context = browser.new_context(**{"viewport": DESKTOP, **options})
        _opened.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on(
            "console",
            lambda one: (
                errors.append(one.text)
                if one.type == "error" and expected_error not in one.text
                else None
            ),
        )
        page.goto(url)
        return page

    yield open_
    close_pages()
    assert errors == []


def shown(page: Page) -> int:
    """The number of the image that can be answered."""
    expect(page.locator("body")).not_to_have_class("busy")
    return int(page.locator("#name").text_content()[:3])  # type: ignore[index]


def press(page: Page, key: str) -> None:
    """And wait until what it does is done."""
    before = page.locator("#one").get_attribute("data-image")
    page.keyboard.press(key)
    page.wait_for_function(
        """(before) => !document.body.classList.contains("busy")
            && (document.querySelector("#one").dataset.image !== before
                || document.querySelector("#one").hidden)""",
        arg=before,
    )


def test_fifty_images_by_keyboard_and_none_is_lost(open_page: Open, tmp_path: Path) -> None:
    pool = make_pool(tmp_path / "images", known=6, new=50)
    session = make_session(pool, tmp_path / "review")
    with serve_page(session) as url:
        page = open_page(url)
        answered = {}
        for _ in range(50):
            number = shown(page)
            answered[number] = colour_of(number)
            press(page, KEYS[colour_of(number)])
            # On the disk before the next image is shown.
            assert len((tmp_path / "review/decisions.jsonl").read_text().splitlines()) == len(
                answered
            )
        expect(page.get_by_role("heading", name="Nothing waits here")).to_be_visible()
        expect(page.locator("#accuracy")).to_have_text("100.0%")
    journal = Journal(tmp_path / "review/decisions.jsonl")
    labels = {
        int(item.name[:3]): journal.standing(item.image).decided.label  # type: ignore[union-attr]
        for item in pool.items[6:]
    }
    assert labels == answered == {number: colour_of(number) for number in range(6, 56)}


def test_undo_skip_none_and_a_new_class(open_page: Open, tmp_path: Path) -> None:
    session = make_session(make_pool(tmp_path / "i", known=6, new=8), tmp_path / "r")
    with serve_page(session) as url:
        page = open_page(url)
        first = shown(page)
        press(page, KEYS["red"])
        press(page, "u")
        assert shown(page) == first
        press(page, "s")
        second = shown(page)
        assert second != first
        press(page, "n")
        page.keyboard.press("c")
        page.get_by_label("Name").fill("a zebra")
        press(page, "Enter")
        expect(page.locator("#classes")).to_contain_text("a zebra")
        expect(page.get_by_role("status")).to_have_text("saved: a zebra")
        page.get_by_label("You are").fill("Ben")
        page.keyboard.press("Enter")
        press(page, "4")  # the new one's
    kinds = [
        (one.who, one.kind, one.label)
        for one in Journal(tmp_path / "r/decisions.jsonl")._by_revision.values()
    ]
    assert [kind for _, kind, _ in kinds] == ["label", "undo", "skip", "none", "label", "label"]
    assert kinds[-1] == ("Ben", "label", "a zebra")


def test_two_tabs_that_answer_differently_lose_nothing(open_page: Open, tmp_path: Path) -> None:
    session = make_session(make_pool(tmp_path / "i", known=6, new=3), tmp_path / "r")
    with serve_page(session) as url:
        page = open_page(url)
        number = shown(page)
        image = session._pool.items[number].image
        session.decide([Decision(image, "label", "Ben", "red")])  # another tab, meanwhile
        page.keyboard.press(KEYS["blue"])
        expect(page.get_by_role("alert").first).to_contain_text("Ben said red meanwhile")
        assert shown(page) == number
        expect(page.locator("#votes li")).to_have_count(2)
        expect(page.locator("#reason")).to_have_text("People differ")
        press(page, KEYS["blue"])
        expect(page.locator("#disagreements")).to_contain_text("settled")
    assert len(Journal(tmp_path / "r/decisions.jsonl")) == 3


def test_several_at_once(open_page: Open, tmp_path: Path) -> None:
    session = make_session(make_pool(tmp_path / "i", known=24, new=12), tmp_path / "r")
    with serve_page(session) as url:
        page = open_page(url)
        shown(page)
        page.keyboard.press("g")
        expect(page.locator("#tiles li")).to_have_count(4)
        check_accessibility(page)
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Space")
        expect(page.locator("#confirm")).to_contain_text("Confirm 3 as")
        page.keyboard.press("Enter")
        expect(page.get_by_role("status")).to_contain_text("saved")
    assert len(Journal(tmp_path / "r/decisions.jsonl")) == 3


def test_it_asks_for_a_key_and_takes_it_from_its_address(open_page: Open, tmp_path: Path) -> None:
    session = make_session(make_pool(tmp_path / "i", known=6, new=3), tmp_path / "r")
    with serve_page(session, key="open-sesame") as url:
        page = open_page(url, expected_error="status of 401")
        refused = page.get_by_text("That key is refused here.")
        expect(refused).to_be_hidden()
        page.get_by_label("Key", exact=True).fill("wrong")
        page.keyboard.press("Enter")
        expect(refused).to_be_visible()
        page.get_by_label("Key", exact=True).fill("open-sesame")
        page.keyboard.press("Enter")
        expect(page.locator("#question")).to_have_text("What is it?")
        page = open_page(f"{url}#open-sesame")
        expect(page.locator("#question")).to_have_text("What is it?")
        assert page.url == url  # not left where it would be looked at or copied


def test_a_disk_that_is_full_says_so_and_keeps_the_image(
    open_page: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = make_session(make_pool(tmp_path / "i", known=6, new=3), tmp_path / "r")

    def full(decisions: object) -> None:
        raise OSError(28, "No space left on device")

    with serve_page(session) as url:
        page = open_page(url, expected_error="status of 507")
        number = shown(page)
        with monkeypatch.context() as patch:
            patch.setattr(session._journal, "append", full)
            page.keyboard.press(KEYS["red"])
            words = "nothing was saved: No space left on device"
            expect(page.get_by_role("alert").first).to_have_text(words)
        assert shown(page) == number
        press(page, KEYS["red"])
    assert len(Journal(tmp_path / "r/decisions.jsonl")) == 1


def test_what_cannot_be_seen_can_only_be_skipped(open_page: Open, tmp_path: Path) -> None:
    pool = make_pool(tmp_path / "i", known=6, new=2)
    session = make_session(pool, tmp_path / "r")
    first = session.queue("a tab", "all", 1)[0]
    (tmp_path / "i" / first.name).unlink()
    session._held.clear()
    with serve_page(session) as url:
        page = open_page(url, expected_error="status of 400")
        expect(page.get_by_role("alert").first).to_contain_text(first.name)
        page.keyboard.press(KEYS["red"])
        page.keyboard.press("n")
        press(page, "s")
        press(page, KEYS["blue"])
    journal = Journal(tmp_path / "r/decisions.jsonl")
    assert journal.standing(first.image).skipped == ("somebody",)
    assert len(journal) == 2


@pytest.mark.parametrize(
    ("scheme", "viewport"),
    [
        ("dark", DESKTOP),
        ("light", PHONE),
        pytest.param("light", DESKTOP, marks=pytest.mark.exhaustive),
        pytest.param("dark", PHONE, marks=pytest.mark.exhaustive),
    ],
)
def test_anybody_can_use_it(
    open_page: Open, tmp_path: Path, scheme: str, viewport: dict[str, int]
) -> None:
    pool = make_pool(tmp_path / "i", known=30, new=12, wrong=(7,))
    with serve_page(make_session(pool, tmp_path / "r")) as url:
        page = open_page(url, color_scheme=scheme, viewport=viewport)
        expect(page.locator("#question")).to_contain_text("images like it are")
        check_accessibility(page)
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= viewport["width"]


def check_accessibility(page: Page) -> None:
    found = Axe().run(page).response["violations"]
    serious = {
        one["id"]: [node["html"] for node in one["nodes"]]
        for one in found
        if one["impact"] in ("serious", "critical")
    }
    assert serious == {}
