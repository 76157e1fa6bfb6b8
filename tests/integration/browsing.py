"""A real browser for the tests of the page: fixtures, and what each page is looked at for."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright

CHROMIUM = shutil.which("chromium")
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="Debian's chromium is not installed (apt-get install chromium)"
)
ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run",
)  # fmt: skip
# For what is to appear on a page. Playwright has 5 s for `expect`, which a busy machine exceeds.
WAIT_MS = 60_000
DESKTOP = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}

# Bytes become a File in the page, which a drop or a paste then carries.
_CARRY = """([type, files]) => {
    const data = new DataTransfer();
    for (const [name, kind, base64] of files) {
        const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
        data.items.add(new File([bytes], name, {type: kind}));
    }
    const options = {bubbles: true, cancelable: true};
    const event = type === "paste"
        ? new ClipboardEvent(type, {...options, clipboardData: data})
        : new DragEvent(type, {...options, dataTransfer: data});
    document.body.dispatchEvent(event);
}"""

Open = Callable[..., "Watched"]
File = tuple[str, bytes]


@dataclass
class Watched:
    """A page, with what it asked of whom and what it complained of."""

    page: Page
    hosts: set[str] = field(default_factory=set)
    errors: list[str] = field(default_factory=list)
    keys: set[str | None] = field(default_factory=set)
    expected_error: str = "never"  # Chromium's own, which it logs for each answer from 400 on

    def bring(self, how: str, *files: File) -> None:
        """Drop or paste files."""
        carried = [
            [name, "image/png" if name.endswith(".png") else "", base64.b64encode(content).decode()]
            for name, content in files
        ]
        self.page.evaluate(_CARRY, [how, carried])

    def card(self, name: str) -> Any:
        return self.page.get_by_role("listitem").filter(
            has=self.page.get_by_role("heading", name=name, exact=True)
        )

    def names(self) -> list[str]:
        return self.page.locator(".card h3").all_text_contents()

    def on_console(self, message: ConsoleMessage) -> None:
        if message.type == "error" and self.expected_error not in message.text:
            self.errors.append(message.text)

    def on_request(self, request: Request) -> None:
        address = urlsplit(request.url)
        if address.scheme != "blob":
            self.hosts.add(address.netloc)
        self.keys.add(request.headers.get("authorization"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        expect.set_options(timeout=WAIT_MS)
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=ARGUMENTS, timeout=WAIT_MS
        )
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """Opens pages, and looks afterwards whether each kept to its host and had no errors."""
    opened: list[tuple[Watched, str]] = []

    def open_(
        url: str, *, wait: bool = True, expected_error: str = "never", **options: Any
    ) -> Watched:
        context = browser.new_context(viewport=options.pop("viewport", DESKTOP), **options)
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        watched = Watched(page, expected_error=expected_error)
        page.on("console", watched.on_console)
        page.on("pageerror", lambda error: watched.errors.append(str(error)))
        page.on("request", watched.on_request)
        opened.append((watched, urlsplit(url).netloc))
        if wait:
            page.goto(url)
        return watched

    yield open_
    for watched, host in opened:
        watched.page.context.close()
        assert watched.errors == []
        assert watched.hosts <= {host}


def check_accessibility(page: Page) -> None:
    # Halfway through a transition a color has a contrast that nobody is meant to read at.
    page.evaluate(
        """document.getAnimations().forEach(
            (one) => one instanceof CSSTransition && one.finish())"""
    )
    found = Axe().run(page).response["violations"]
    serious = {
        one["id"]: [node["html"] for node in one["nodes"]]
        for one in found
        if one["impact"] in ("serious", "critical")
    }
    assert serious == {}
