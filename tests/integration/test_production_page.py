"""The page's second tab, driven in a real browser against a real service."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from testing import patient
from testing.images import coloured_pixels, encode
from testing.server import Server, promote, register_version, serve
from tests.integration.browsing import (
    DESKTOP,
    PHONE,
    Open,
    check_accessibility,
    needs_chromium,
)

pytestmark = needs_chromium

WEEK = 168


@pytest.fixture(scope="module")
def versions() -> list[str]:
    """Of the store of `administered`, the one in production last."""
    return []


@pytest.fixture(scope="module")
def administered(tmp_path_factory: pytest.TempPathFactory, versions: list[str]) -> Iterator[Server]:
    """With an admin key, and a history of two."""
    place = tmp_path_factory.mktemp("administered")
    for day in (1, 2):
        tag = register_version(place, day)
        promote(place / "home", tag)
        versions.append(tag.removeprefix("vgg19:"))
    digest = hashlib.sha256(b"open sesame").hexdigest()
    with serve(
        place / "home", place / "log", VGG19_ADMIN_KEY=digest, VGG19_WATCH_INTERVAL_S="1"
    ) as server:
        yield server


def feature(name: str, psi: float, alarm_at: float | None = None) -> dict[str, Any]:
    return {
        "name": name,
        "title": name,
        "alarm_at": alarm_at,
        "windows": {"recent": {"images": 1000, "psi": psi}, "day": None},
    }


DRIFT = {
    "watched": True,
    "reason": None,
    "drift": {
        "reference_images": 800,
        "windows": {"recent": 1000, "day": 2400},
        "accepted": {"reference": 0.93, "recent": 0.814, "day": None},
        "features": [feature("brightness", 0.42, 1790000000.0), feature("contrast", 0.01)],
        "history": {
            "psi": {
                "brightness": [None] * 100 + [0.005 * hour for hour in range(WEEK - 100)],
                "contrast": [None] * WEEK,
            }
        },
    },
}


def watch_drift(page: Page, drift: dict[str, Any]) -> None:
    """Have the service say this of drift."""

    def with_drift(route: Route) -> None:
        reply = route.fetch()
        route.fulfill(response=reply, json=reply.json() | {"drift": True})

    page.route("**/overview", with_drift)
    page.route("**/drift", lambda route: route.fulfill(json=drift))


def test_what_serves_and_what_was_answered(
    open_page: Open, administered: Server, versions: list[str]
) -> None:
    first, second = versions
    before = patient.get(f"{administered.url}/overview").json()["traffic"]["accepted"]
    for seed in range(3):
        patient.post(f"{administered.url}/classify", files={"image": encode(coloured_pixels(seed))})
    watched = open_page(f"{administered.url}/")
    page = watched.page
    expect(page.locator("#overview")).to_be_hidden()
    page.get_by_role("tab", name="Production").click()
    expect(page.locator("#served-version")).to_have_text(f"vgg19 {second}")
    expect(page.locator("#served-since")).to_contain_text("(this minute)")
    expect(page.locator("#images")).to_have_text(str(before + 3))
    expect(page.locator("#accepted")).to_have_text("100.0%")
    expect(page.locator("#median")).to_have_text(re.compile(r"[\d.]+ ms"))
    rows = page.locator("#history .version")
    assert rows.all_text_contents() == [f"{second}production", first]
    expect(page.locator("#drift-note")).to_contain_text("Drift isn't watched")
    expect(page.get_by_role("link", name="Review images")).to_have_count(0)  # there are none
    assert page.url.endswith("/#production")
    page.reload()
    expect(page.locator("#served-version")).to_have_text(f"vgg19 {second}")
    page.get_by_role("tab", name="Production").press("ArrowRight")
    expect(page.get_by_role("tab", name="Classify")).to_be_focused()
    expect(page.get_by_role("heading", name="Drop images here")).to_be_visible()
    expect(page.locator("#overview")).to_be_hidden()


def test_drift_is_shown_over_the_week(open_page: Open, administered: Server) -> None:
    watched = open_page(f"{administered.url}/", wait=False)
    page = watched.page
    watch_drift(page, DRIFT)
    page.goto(f"{administered.url}/#production")
    expect(page.locator("#drift-note")).to_contain_text(
        "Accepted: 81.4% of the last images, 93.0% of the validation images."
    )
    brightness, contrast = page.locator("#drift-features li").all()
    expect(brightness).to_contain_text("PSI 0.42, differs since Sep")
    expect(contrast).to_contain_text("PSI 0.01")
    chart = brightness.get_by_role("img", name="PSI of brightness by the hour, 0.34 at most")
    points = str(chart.locator(".line").get_attribute("points")).split()
    assert len(points) == WEEK - 100
    expect(contrast.get_by_role("img")).to_have_count(0)


@pytest.mark.parametrize(
    ("drift", "said"),
    [
        ({"watched": True, "drift": None}, "Nothing was answered yet."),
        (
            {"watched": False, "reason": "version 7 has no reference", "drift": None},
            "Drift isn't watched: version 7 has no reference.",
        ),
    ],
)
def test_why_there_is_no_drift(
    open_page: Open, administered: Server, drift: dict[str, Any], said: str
) -> None:
    watched = open_page(f"{administered.url}/", wait=False)
    watch_drift(watched.page, drift)
    watched.page.goto(f"{administered.url}/#production")
    expect(watched.page.locator("#drift-note")).to_have_text(said)


def test_drift_that_fails_once_is_asked_again(open_page: Open, administered: Server) -> None:
    watched = open_page(f"{administered.url}/", wait=False, expected_error="status of 500")
    page = watched.page
    watch_drift(page, DRIFT)
    problem = {"detail": "the disk is full"}
    page.route("**/drift", lambda route: route.fulfill(status=500, json=problem), times=1)
    page.clock.install()
    page.goto(f"{administered.url}/#production")
    expect(page.get_by_role("status")).to_have_text("the disk is full")
    page.clock.fast_forward(5_000)
    expect(page.locator("#drift-features li")).to_have_count(2)
    expect(page.get_by_role("status")).to_have_text("")


def test_without_an_admin_key_it_says_how(open_page: Open, administered: Server) -> None:
    def without_key(route: Route) -> None:
        reply = route.fetch()
        route.fulfill(response=reply, json=reply.json() | {"administered": False})

    watched = open_page(f"{administered.url}/", wait=False)
    watched.page.route("**/overview", without_key)
    watched.page.goto(f"{administered.url}/#production")
    expect(watched.page.locator("#rollback-note")).to_contain_text("set an admin key")
    expect(watched.page.get_by_role("button", name="Roll back")).to_have_count(0)


def test_what_the_service_says_is_no_html(open_page: Open, administered: Server) -> None:
    def hostile(route: Route) -> None:
        reply = route.fetch()
        content = reply.json()
        content["model"]["problems"] = ["<img src=x onerror=alert(1)>"]
        content["history"][0]["why"] = "<b>bold</b>"
        route.fulfill(response=reply, json=content)

    watched = open_page(f"{administered.url}/", wait=False)
    watched.page.route("**/overview", hostile)
    watched.page.goto(f"{administered.url}/#production")
    expect(watched.page.locator("#history .why").first).to_have_text("<b>bold</b>")
    expect(watched.page.locator("#served-problems li")).to_have_text("<img src=x onerror=alert(1)>")


SHADOW = {
    "shadow": {"version": "9", "against": "8"},
    "outcome": "waiting",
    "stale": False,
    "agreement": 0.914,
    "seen": {"images": 1200},
    "verdicts": [
        {"rule": "images", "measured": "1200", "limit": "2000 or more", "passed": False},
        {"rule": "agreement", "measured": "0.914", "limit": "0.800 or more", "passed": True},
    ],
    "workers": [
        {"worker": "a-1", "state": "running", "reason": ""},
        {"worker": "a-2", "state": "failed", "reason": "it took longer than 30 s for an image"},
    ],
}
DIFFERING = {
    "png": base64.b64encode(encode(coloured_pixels(1))).decode(),
    "difference": 0.8,
    "production": "<b>rose</b>",
    "candidate": "tulip",
    "production_confidence": 0.9,
    "candidate_confidence": 0.71,
}
CANARY = {
    "canary": {"version": "9", "against": "8", "steps": [5.0, 25.0, 100.0]},
    "percent": 25.0,
    "requests": 4100,
    "threshold_log_e": 6.0,
    "evidence": [
        {
            "kind": "failed",
            "canary": {"hits": 3, "count": 4100},
            "production": {"hits": 0, "count": 0},
            "margin": 0.01,
            "log_e": 1.5,
        }
    ],
    "workers": [],
}


def watch_rollout(page: Page, **running: Any) -> None:
    """Have the service say that this is tried beside production."""

    def with_rollout(route: Route) -> None:
        reply = route.fetch()
        route.fulfill(response=reply, json=reply.json() | running)

    page.route("**/overview", with_rollout)
    page.route("**/overview/differing", lambda route: route.fulfill(json={"images": [DIFFERING]}))


def test_a_shadow_is_compared_with_production(open_page: Open, administered: Server) -> None:
    watched = open_page(f"{administered.url}/", wait=False)
    page = watched.page
    watch_rollout(page, shadow=SHADOW, canary=None)
    page.goto(f"{administered.url}/#production")
    panel = page.locator("#rollout")
    expect(panel.get_by_role("heading")).to_have_text("In the shadow")
    expect(panel).to_contain_text("1,200 images compared, the same label for 91.4%.")
    assert [row.all_text_contents() for row in rows_of(panel)] == [
        ["images", "1200", "2000 or more", "not yet"],
        ["agreement", "0.914", "0.800 or more", "holds"],
    ]
    expect(panel.locator(".problems li")).to_have_text("a-2: it took longer than 30 s for an image")
    name = "production: <b>rose</b>, 90.0%; candidate: tulip, 71.0%"
    expect(panel.get_by_role("img")).to_have_count(0)
    panel.get_by_role("button", name="Show images on which the two differ").click()
    check_accessibility(page)
    page.get_by_label("Admin key").fill("open sesame")
    page.get_by_role("button", name="Show", exact=True).click()
    picture = panel.get_by_role("img", name=name)
    assert picture.evaluate("(image) => image.decode().then(() => image.naturalWidth)") == 32
    check_accessibility(page)


def test_a_canary_says_how_far_it_is(open_page: Open, administered: Server) -> None:
    watched = open_page(f"{administered.url}/", wait=False, viewport=PHONE)
    page = watched.page
    watch_rollout(page, shadow=None, canary=CANARY)
    page.goto(f"{administered.url}/#production")
    panel = page.locator("#rollout")
    expect(panel).to_contain_text("9 answers 25% of the clients (steps: 5%, 25%, 100%) beside 8")
    assert [row.all_text_contents() for row in rows_of(panel)] == [
        ["failed", "<0.1% of 4,100", "none yet", "25% of what takes it back"]
    ]
    check_accessibility(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def rows_of(panel: Locator) -> list[Locator]:
    return [row.locator("td") for row in panel.locator("tbody tr").all()]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_anybody_can_read_it(
    open_page: Open, administered: Server, scheme: str, viewport: dict[str, int]
) -> None:
    watched = open_page(f"{administered.url}/", wait=False, color_scheme=scheme, viewport=viewport)
    page = watched.page
    watch_drift(page, DRIFT)
    page.goto(f"{administered.url}/#production")
    expect(page.locator("#drift-features li")).to_have_count(2)
    check_accessibility(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_way_back_wants_the_admin_key(
    open_page: Open, administered: Server, versions: list[str]
) -> None:
    first, second = versions
    watched = open_page(f"{administered.url}/#production", expected_error="status of 401")
    page = watched.page
    page.get_by_role("button", name=f"Roll back to {first}").click()
    dialog = page.get_by_role("dialog", name="Roll back?")
    expect(dialog).to_contain_text(f"Production goes from {second} to {first}.")
    key = page.get_by_label("Admin key")
    expect(key).to_be_focused()
    check_accessibility(page)
    key.fill("wrong")
    key.press("Enter")
    expect(dialog.get_by_role("alert")).to_have_text("That isn't the admin key.")
    key.fill("open sesame")
    key.press("Enter")
    expect(dialog).to_be_hidden()
    expect(page.get_by_role("status")).to_have_text(f"Production is {first} now.")
    expect(page.locator("#history .version").first).to_have_text(f"{first}production")
    expect(page.locator("#history .why").first).to_have_text("rolled back on the page")
    expect(page.locator("#served-version")).to_have_text(f"vgg19 {first}")
    assert key.input_value() == ""
    assert "sesame" not in page.url + page.content()
