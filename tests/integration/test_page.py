"""The page at `/`, driven in a real browser against a real service."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Locator, Page, Route, expect

from models.bundle.acceptance import Acceptance
from models.bundle.bundle import ACCEPTANCE_FILE, SPEC_FILE
from models.bundle.manifest import read_manifest
from models.bundle.spec import ModelSpec
from models.bundle.writer import write_manifest
from models.imaging.image import load_image
from models.imaging.preprocessing import Preprocessing
from serving.settings import Settings
from testing.bundles import tiny_heat_map, write_tiny_bundle
from testing.images import SIZE, coloured_pixels, encode
from testing.server import Server, put_into_production, serve
from tests.integration.browsing import (
    DESKTOP,
    PHONE,
    File,
    Open,
    Watched,
    check_accessibility,
    needs_chromium,
)

pytestmark = needs_chromium
NOT_AN_IMAGE = b"this is no image"

# Folders can't be made in a page, so what the browser says of a dropped one is.
_DROP_FOLDER = """([name, files]) => {
    const entry = ([path, base64]) => {
        const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
        return {name: path, isDirectory: false, file: (done) => done(new File([bytes], path))};
    };
    const folder = (name, entries) => ({name, isDirectory: true, createReader: () => {
        const rest = entries.map((one) => (one[2] ? folder(one[0], one[2]) : entry(one)));
        return {readEntries: (done) => done(rest.splice(0, 2))};
    }});
    const data = new DataTransfer();
    data.items.add(new File([], name));
    const real = DataTransferItem.prototype.webkitGetAsEntry;
    DataTransferItem.prototype.webkitGetAsEntry = () => folder(name, files);
    const options = {bubbles: true, cancelable: true, dataTransfer: data};
    document.body.dispatchEvent(new DragEvent("drop", options));
    DataTransferItem.prototype.webkitGetAsEntry = real;
}"""


def image(colour: str, seed: int = 0) -> File:
    return f"{colour}{seed}.png", encode(coloured_pixels(seed, colour))


@pytest.fixture
def watched(open_page: Open, server: Server) -> Watched:
    return open_page(f"{server.url}/")


def test_a_dropped_image_gets_its_label(watched: Watched) -> None:
    expect(watched.page.locator("#model")).to_contain_text("3 classes")
    watched.bring("drop", image("green"))
    card = watched.card("green0.png")
    expect(card.locator(".bars li").first).to_contain_text("green")
    assert card.locator(".bars .label").count() == 3
    values = [float(text.strip("<%")) for text in card.locator(".value").all_text_contents()]
    assert sum(values) == pytest.approx(100, abs=0.3)
    assert card.locator("dt").all_text_contents() == ["decode", "queue", "inference"]
    times = [float(text.removesuffix(" ms")) for text in card.locator("dd").all_text_contents()]
    assert all(0 <= time < math.inf for time in times)  # nor NaN
    version = watched.page.evaluate("fetch('model').then((r) => r.json()).then((m) => m.version)")
    expect(card.locator(".version")).to_have_text(f"vgg19 {version}")
    expect(watched.page.get_by_role("status")).to_contain_text("green0.png: green,")
    assert card.get_by_role("img").evaluate("(image) => image.naturalWidth") == 32


def test_what_is_not_accepted_says_so(open_page: Open, tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "bundle")
    Acceptance(target_precision=0.99, min_confidence=0.999).write(bundle / ACCEPTANCE_FILE)
    write_manifest(bundle, read_manifest(bundle).provenance)
    with serve(put_into_production(bundle), tmp_path / "log") as server:
        watched = open_page(f"{server.url}/")
        grey = ("grey.png", encode(np.full((32, 32, 3), 128, np.uint8)))
        watched.bring("drop", image("green"), grey)
        expect(watched.page.get_by_role("status")).to_have_text("2 images done")
        expect(watched.card("grey.png").locator(".doubt")).to_have_text(
            "Not accepted: too uncertain."
        )
        expect(watched.card("green0.png").locator(".doubt")).to_be_hidden()
        check_accessibility(watched.page)
        rows = read_csv(watched.page)
    assert {row["file"]: row["accepted"] for row in rows} == {
        "green0.png": "true", "grey.png": "false",
    }  # fmt: skip


def test_what_is_unlike_the_training_images_says_so(watched: Watched) -> None:
    def far(route: Route) -> None:
        reply = route.fetch()
        content = reply.json()
        content["images"][0] |= {"accepted": False, "distance": 1.7}
        route.fulfill(response=reply, json=content)

    watched.page.route("**/classify*", far)
    watched.bring("drop", image("green"))
    expect(watched.card("green0.png").locator(".doubt")).to_have_text(
        "Not accepted: unlike the images that the model was trained on."
    )
    assert read_csv(watched.page)[0]["distance"] == "1.7"


def test_a_heat_map_lies_over_the_picture(watched: Watched) -> None:
    watched.bring("drop", image("green"))
    card = watched.card("green0.png")
    heat = card.locator("canvas")
    expect(heat).to_be_hidden()
    button = card.get_by_role("button", name="Heat map of green0.png")
    button.click()
    expect(heat).to_be_visible()
    expect(button).to_have_attribute("aria-pressed", "true")
    assert drawn(heat) == pytest.approx(alphas(coloured_pixels(0, "green"), 1), abs=1)
    assert heat.bounding_box() == card.locator("img").bounding_box()  # it sees the whole square
    name = heat.get_attribute("aria-label")
    assert name is not None
    assert name.startswith("Heat map: what supports green; most at the ")
    strength = card.get_by_role("slider", name="Strength of the heat map of green0.png")
    strength.fill("20")
    assert heat.evaluate("(canvas) => getComputedStyle(canvas).opacity") == "0.2"
    strength.press("ArrowRight")
    assert heat.evaluate("(canvas) => getComputedStyle(canvas).opacity") == "0.21"
    check_accessibility(watched.page)
    card.get_by_role("combobox").select_option("red")
    expect(heat).to_have_attribute("aria-label", re.compile("what supports red"))
    assert drawn(heat) == pytest.approx(alphas(coloured_pixels(0, "green"), 2), abs=1)
    button.click()
    expect(heat).to_be_hidden()


# Of 96 x 32: width and height of what the model sees, as parts of the square card.
VIEWS: list[tuple[dict[str, Any], tuple[float, float]]] = [
    ({"resize_size": 40}, (0.8, 0.8)),
    ({"resize": "squash"}, (1.0, 1 / 3)),
    ({"resize": "pad"}, (1.0, 1.0)),
]


@pytest.mark.parametrize(
    ("rule", "view"),
    [VIEWS[0], *(pytest.param(*view, marks=pytest.mark.exhaustive) for view in VIEWS[1:])],
)
def test_a_heat_map_lies_where_the_model_sees(
    open_page: Open, tmp_path: Path, rule: dict[str, Any], view: tuple[float, float]
) -> None:
    """By each rule of the shape, over a picture that is three times as wide as it is high, and over
    one that EXIF turns so that it is as high."""
    preprocessing = Preprocessing(image_size=SIZE, **rule)
    bundle = write_tiny_bundle(tmp_path / "bundle")
    spec = ModelSpec.read(bundle / SPEC_FILE)
    spec.model_copy(update={"preprocessing": preprocessing}).write(bundle / SPEC_FILE)
    write_manifest(bundle, read_manifest(bundle).provenance)
    pixels = np.zeros((32, 96, 3), np.uint8)
    pixels[:, :32, 1], pixels[:, 32:64, 1], pixels[8:, 64:, 1] = 80, 160, 240
    files = {"wide.png": encode(pixels), "high.png": turned(pixels)}
    with serve(put_into_production(bundle), tmp_path / "log") as server:
        watched = open_page(f"{server.url}/")
        for (name, content), (width, height) in zip(files.items(), (view, view[::-1]), strict=True):
            watched.bring("drop", (name, content))
            card = watched.card(name)
            card.get_by_role("button", name="Heat map").click()
            heat, picture = card.locator("canvas"), card.locator("img")
            expect(heat).to_be_visible()
            expect(picture).to_have_css("object-fit", "contain" if "resize" in rule else "cover")
            assert drawn(heat) == pytest.approx(
                alphas(load_image(content, preprocessing), 1), abs=1
            )
            square, found = card.locator(".picture").bounding_box(), heat.bounding_box()
            assert square is not None
            side = square["width"]
            assert found == pytest.approx(
                {
                    "x": square["x"] + side * (1 - width) / 2,
                    "y": square["y"] + side * (1 - height) / 2,
                    "width": side * width,
                    "height": side * height,
                },
                abs=0.5,
            )


def turned(pixels: NDArray[np.uint8]) -> bytes:
    """A PNG that EXIF turns by a quarter to the right."""
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", exif=exif)
    return buffer.getvalue()


def drawn(canvas: Locator) -> list[int]:
    """How opaque each value of a heat map is, 0..255."""
    pixels: list[int] = canvas.evaluate(
        """(canvas) => [...canvas.getContext("2d")
            .getImageData(0, 0, canvas.width, canvas.height).data]"""
    )
    return pixels[3::4]


def alphas(pixels: NDArray[np.uint8], index: int) -> list[float]:
    strengths = 255 * np.minimum(1, 1.25 * tiny_heat_map(pixels, index))
    return [float(strength) for strength in strengths.ravel()]


def test_a_heat_map_of_nothing_says_so(watched: Watched) -> None:
    """The channel of a class that a picture has nothing of."""
    watched.bring("drop", image("green"))
    card = watched.card("green0.png")

    def nothing(route: Route) -> None:
        reply = route.fetch()
        content = reply.json()
        content["images"][0]["heatmap"]["values"] = [[0.0, 0.0], [0.0, 0.0]]
        route.fulfill(response=reply, json=content)

    card.get_by_role("button", name="Heat map").wait_for()
    watched.page.route("**/classify*", nothing)
    card.get_by_role("button", name="Heat map").click()
    expect(card.locator(".explain .trouble")).to_have_text(
        "No part of the image supports green more than another."
    )


def test_a_heat_map_that_fails_says_why(watched: Watched) -> None:
    watched.expected_error = "Failed to load resource"
    watched.bring("drop", image("green"))
    card = watched.card("green0.png")
    card.get_by_role("button", name="Heat map").wait_for()
    watched.page.route(
        "**/classify*", lambda route: route.fulfill(status=500, json={"detail": "no map today"})
    )
    card.get_by_role("button", name="Heat map").click()
    expect(card.locator(".explain .trouble")).to_have_text("no map today")
    expect(card.locator("canvas")).to_be_hidden()


def test_a_model_without_heat_maps_offers_none(
    open_page: Open, tiny_home: Path, tmp_path: Path
) -> None:
    with serve(tiny_home, tmp_path / "log", VGG19_HEAT_MAPS="false") as server:
        watched = open_page(f"{server.url}/")
        watched.bring("drop", image("green"))
        expect(watched.card("green0.png").locator(".bars li").first).to_contain_text("green")
        expect(watched.page.get_by_role("button", name="Heat map")).to_have_count(0)


def test_a_dropped_folder_is_its_images_with_all_below(watched: Watched) -> None:
    def carried(file: File) -> list[Any]:
        return [file[0], base64.b64encode(file[1]).decode(), None]

    below = ["below", "", [carried(image("red", 2)), carried(image("green", 10))]]
    inside = [
        carried(image("green", 1)), below, carried(("notes.txt", b"x")), carried(("._a.png", b"x")),
        carried(image("blue", 3)),
    ]  # fmt: skip
    watched.page.evaluate(_DROP_FOLDER, ["photos", inside])
    expect(watched.page.locator(".card[data-state=done]")).to_have_count(4)
    assert watched.names() == ["green10.png", "red2.png", "blue3.png", "green1.png"]


def test_a_dropped_folder_without_images_is_named(watched: Watched) -> None:
    note = watched.page.locator("#intake-note")
    watched.page.evaluate(_DROP_FOLDER, ["letters", [["notes.txt", "", None]]])
    expect(note).to_have_text("There are no images in the folder letters.")
    expect(watched.page.locator("#outcome")).to_be_hidden()
    watched.bring("paste", image("red"))
    expect(watched.page.locator(".card[data-state=done]")).to_have_count(1)
    expect(note).to_be_empty()
    watched.bring("drop", image("blue"))
    expect(watched.page.locator(".card[data-state=done]")).to_have_count(2)


def test_of_a_folder_with_too_many_images_the_first_are_taken_and_the_rest_not_read(
    watched: Watched,
) -> None:
    watched.page.evaluate(
        """() => {
            const entry = (n) => ({name: `${n}.png`, isDirectory: false,
                file: (done) => { window.read = n; done(new File([], `${n}.png`)); }});
            const entries = Array.from({length: 2500}, (_, n) => entry(n + 1));
            const folder = {name: "all", isDirectory: true,
                createReader: () => ({readEntries: (done) => done(entries.splice(0, 100))})};
            const transfer = {items: [{kind: "file", webkitGetAsEntry: () => folder,
                getAsFile: () => null}]};
            return import(new URL("ui/folders.js", location)).then(async ({dropped}) => {
                const {files, more} = await dropped(transfer);
                window.found = {count: files.length, last: files.at(-1).name, more};
            });
        }"""
    )
    found = watched.page.evaluate("[window.found, window.read]")
    assert found == [{"count": 2000, "last": "2000.png", "more": True}, 2001]


def test_an_undecodable_file_shows_the_services_words(watched: Watched) -> None:
    watched.expected_error = "status of 400"
    watched.bring("drop", ("notes.txt", NOT_AN_IMAGE), image("red"))
    said = watched.page.evaluate(
        """(body) => fetch("classify", {method: "POST", body,
            headers: {"Content-Type": "application/octet-stream"}})
            .then((reply) => reply.json()).then((problem) => problem.detail)""",
        NOT_AN_IMAGE.decode(),
    )
    shown = said.replace(" (VGG19_IMAGE_FORMATS)", "")
    assert shown != said
    expect(watched.card("notes.txt").locator(".problem p")).to_have_text(shown)
    expect(watched.card("notes.txt").locator(".problem button")).to_be_hidden()  # it can't help
    expect(watched.card("notes.txt")).to_contain_text("No preview")
    expect(watched.card("red0.png").locator(".bars li").first).to_contain_text("red")
    expect(watched.page.get_by_role("status")).to_have_text("2 images done, 1 with a problem")


def test_a_file_above_the_limit_shows_the_services_words(watched: Watched, tmp_path: Path) -> None:
    """Which come while the browser still sends, over a connection that then ends."""
    watched.expected_error = "status of 413"
    limit = Settings.model_fields["max_image_bytes"].default
    (tmp_path / "large.png").write_bytes(bytes(limit + 1))
    watched.page.get_by_label("Choose images").set_input_files(tmp_path / "large.png")
    problem = watched.card("large.png").locator(".problem p")
    expect(problem).to_contain_text(f"the limit is {limit:,}")
    expect(problem).not_to_contain_text("VGG19_")
    expect(watched.card("large.png").locator(".problem button")).to_be_hidden()


@pytest.mark.parametrize("resize", ["crop", "pad"])
def test_a_transparent_picture_is_on_white_as_the_model_sees_it(
    open_page: Open, server: Server, resize: str
) -> None:
    watched = open_page(f"{server.url}/", color_scheme="dark")
    clear = Image.new("RGBA", (20, 40))
    watched.bring("drop", ("clear.png", encode(np.asarray(clear))))
    card = watched.card("clear.png")
    expect(card.locator(".bars li").first).to_be_visible()
    card.evaluate("(card, resize) => { card.dataset.resize = resize; }", resize)
    shot = Image.open(io.BytesIO(card.locator(".picture").screenshot())).convert("RGB")
    width, height = shot.size
    assert shot.getpixel((width // 2, height // 2)) == (255, 255, 255)
    beside = shot.getpixel((4, height // 2))
    assert (beside == (255, 255, 255)) == (resize == "crop")  # of "pad", the card is seen there


def test_choosing_and_pasting(watched: Watched, tmp_path: Path) -> None:
    name, content = image("blue")
    (tmp_path / name).write_bytes(content)
    for label in ("Choose images", "Take a photo"):
        watched.page.get_by_label(label).set_input_files(tmp_path / name)
    watched.bring("paste", image("red"))
    expect(watched.page.locator(".card[data-state=done]")).to_have_count(3)
    assert watched.names() == ["blue0.png", "blue0.png", "pasted-1.png"]
    assert watched.page.locator("#photo").get_attribute("capture") == "environment"


def test_a_batch_is_a_gallery_sorted_by_confidence_and_a_csv(watched: Watched) -> None:
    watched.expected_error = "status of 400"
    page = watched.page
    files = [image(("red", "green", "blue")[seed % 3], seed) for seed in range(14)]
    watched.bring("drop", *files, ("=cmd.txt", NOT_AN_IMAGE))
    expect(page.get_by_role("status")).to_have_text("15 images done, 1 with a problem")
    expect(page.get_by_role("radio", name="Gallery")).to_be_checked()
    rows = read_csv(page)
    assert len(rows) == 15
    certainty = {row["file"]: float(row["probability_1"] or 0) for row in rows}
    shown = watched.names()
    assert shown[-1] == "=cmd.txt"  # without an answer
    assert [certainty[name] for name in shown[:-1]] == sorted(
        (certainty[name] for name, _ in files), reverse=True
    )
    assert {row["label_1"] for row in rows if not row["error"]} == {"red", "green", "blue"}
    assert all(name.startswith(row["label_1"]) for row in rows if (name := row["file"])[0] != "'")
    stages = ("decode_ms", "queue_ms", "inference_ms")
    assert all(float(row[stage]) >= 0 for row in rows if not row["error"] for stage in stages)
    (bad,) = (row for row in rows if row["error"])
    assert bad["file"] == "'=cmd.txt"  # text to a spreadsheet, not a formula
    page.get_by_label("Order").select_option("least")
    assert [certainty[name] for name in watched.names()[:-1]] == sorted(
        certainty[name] for name, _ in files
    )
    page.get_by_role("button", name="Clear").click()
    assert watched.names() == []


def read_csv(page: Page) -> list[dict[str, str]]:
    with page.expect_download() as download:
        page.get_by_role("button", name="Download CSV").click()
    text = Path(download.value.path()).read_bytes().decode("utf-8-sig")
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_more_labels_are_asked_for(watched: Watched) -> None:
    page = watched.page
    page.get_by_label("Labels per image").fill("1")
    page.get_by_label("Labels per image").blur()
    watched.bring("drop", image("green"))
    expect(page.locator(".bars li")).to_have_count(1)
    page.get_by_label("Labels per image").fill("2")
    page.get_by_label("Labels per image").blur()
    expect(page.locator(".bars li")).to_have_count(2)


def test_a_busy_service_is_asked_again(open_page: Open, server: Server) -> None:
    watched = open_page(f"{server.url}/")
    watched.expected_error = "Failed to load resource"
    answers = iter([503, 429])

    def busy(route: Route) -> None:
        status = next(answers, None)
        if status is None:
            route.continue_()
        else:
            route.fulfill(status=status, headers={"Retry-After": "0.1"}, json={"detail": "busy"})

    watched.page.route("**/classify*", busy)
    watched.bring("drop", image("green"))
    expect(watched.card("green0.png").locator(".bars li").first).to_contain_text("green")
    assert next(answers, None) is None


def test_a_limit_of_requests_lets_every_image_through(
    open_page: Open, tiny_home: Path, tmp_path: Path
) -> None:
    limit = {"VGG19_RATE_LIMIT": "4", "VGG19_RATE_LIMIT_BURST": "4"}
    with serve(tiny_home, tmp_path / "log", **limit) as server:
        watched = open_page(f"{server.url}/", expected_error="status of 429")
        watched.bring("drop", *(image("red", seed) for seed in range(0, 36, 3)))
        expect(watched.page.locator(".card[data-state=done]")).to_have_count(12)
        watched.page.context.close()


def test_who_is_told_to_wait_long_reads_so(open_page: Open, server: Server) -> None:
    watched = open_page(f"{server.url}/", expected_error="Failed to load resource")
    answer = {"status": 503, "headers": {"Retry-After": "3600"}, "json": {"detail": "come later"}}
    watched.page.route("**/classify*", lambda route: route.fulfill(**answer))
    watched.bring("drop", image("green"))
    expect(watched.card("green0.png").locator(".problem p")).to_have_text("come later")


def test_what_fails_may_be_tried_again(watched: Watched) -> None:
    watched.expected_error = "net::ERR_FAILED"
    watched.page.route("**/classify*", lambda route: route.abort(), times=1)
    watched.bring("drop", image("green"))
    card = watched.card("green0.png")
    expect(card.locator(".problem")).to_contain_text("No answer from the service")
    card.get_by_role("button", name="Try green0.png again").click()
    expect(card.locator(".bars li").first).to_contain_text("green")
    expect(card.locator(".problem")).to_be_hidden()


def test_it_works_behind_a_prefix(open_page: Open, server: Server) -> None:
    """As behind a proxy that takes `/vision` off; nothing is asked for outside of it."""
    watched = open_page(f"{server.url}/", wait=False)
    outside: list[str] = []

    def proxy(route: Route) -> None:
        path = route.request.url.removeprefix(server.url)
        if path.startswith("/vision/"):
            route.fulfill(response=route.fetch(url=server.url + path.removeprefix("/vision")))
        else:
            outside.append(path)
            route.abort()

    watched.page.route(lambda url: url.startswith("http"), proxy)
    watched.page.goto(f"{server.url}/vision/")
    watched.bring("drop", image("blue"))
    expect(watched.card("blue0.png").locator(".bars li").first).to_contain_text("blue")
    assert outside == []
    link = watched.page.get_by_role("link", name="API")
    assert link.evaluate("(link) => link.href") == f"{server.url}/vision/docs"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_anybody_can_use_it(
    open_page: Open, server: Server, scheme: str, viewport: dict[str, int]
) -> None:
    watched = open_page(f"{server.url}/", color_scheme=scheme, viewport=viewport)
    watched.expected_error = "status of 400"
    check_accessibility(watched.page)
    watched.bring("drop", image("green"), image("red"), ("notes.txt", NOT_AN_IMAGE))
    expect(watched.page.get_by_role("status")).to_have_text("3 images done, 1 with a problem")
    watched.page.get_by_role("button", name="Heat map of green0.png").click()
    expect(watched.card("green0.png").locator("canvas")).to_be_visible()
    check_accessibility(watched.page)
    width = watched.page.evaluate("document.documentElement.scrollWidth")
    assert width <= viewport["width"]
    watched.page.get_by_role("radio", name="Gallery").check()
    check_accessibility(watched.page)
    width = watched.page.evaluate("document.documentElement.scrollWidth")
    assert width <= viewport["width"]  # nothing to scroll to the side


def test_the_keyboard_is_enough(watched: Watched) -> None:
    page = watched.page
    watched.bring("drop", image("green"), image("red"))
    expect(page.get_by_role("status")).to_have_text("2 images done")
    passed = []
    for _ in range(8):
        page.keyboard.press("Tab")
        passed.append(page.evaluate("document.activeElement.id || document.activeElement.value"))
        outlined = page.evaluate(
            """[document.activeElement, document.activeElement.nextElementSibling].some(
                (one) => one && getComputedStyle(one).outlineStyle === "solid")"""
        )
        assert outlined, passed[-1]
    order = ["classify-tab", "files", "top-k", "details", "order", "csv", "clear"]
    assert [name for name in passed if name in order] == order
    page.get_by_role("radio", name="Details").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#results").get_attribute("class") == "gallery"


@pytest.fixture(scope="module")
def guarded(tiny_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("guarded") / "log"
    digest = hashlib.sha256(b"open sesame").hexdigest()
    with serve(tiny_home, log, VGG19_API_KEYS=digest) as server:
        yield server


def test_it_asks_for_a_key_and_forgets_it(open_page: Open, guarded: Server) -> None:
    watched = open_page(f"{guarded.url}/", expected_error="status of 401")
    page = watched.page
    dialog = page.get_by_role("dialog", name="This service needs an API key")
    expect(page.get_by_label("API key", exact=True)).to_be_focused()
    check_accessibility(page)
    page.get_by_label("API key", exact=True).fill("sesame\N{EN DASH}open")  # no header can hold it
    page.keyboard.press("Enter")
    assert not page.get_by_label("API key", exact=True).evaluate("(key) => key.validity.valid")
    expect(dialog).to_be_visible()
    page.get_by_label("API key", exact=True).fill("wrong")
    page.keyboard.press("Enter")
    expect(dialog.get_by_role("alert")).to_contain_text("doesn't accept that key")
    page.get_by_label("API key", exact=True).fill("open sesame")
    page.get_by_role("button", name="Use key").click()
    expect(page.locator("#model")).to_contain_text("3 classes")
    watched.bring("drop", image("green"), image("red"))
    expect(page.get_by_role("status")).to_have_text("2 images done")
    assert watched.keys == {None, "Bearer wrong", "Bearer open sesame"}
    kept = page.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie])")
    assert kept == '[{},{},""]'
    assert "sesame" not in page.url + page.content()
    page.reload()
    expect(dialog).to_be_visible()


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_anybody_can_give_the_key_in_the_dark(
    open_page: Open, guarded: Server, viewport: dict[str, int]
) -> None:
    watched = open_page(
        f"{guarded.url}/", expected_error="status of 401", color_scheme="dark", viewport=viewport
    )
    expect(watched.page.get_by_label("API key", exact=True)).to_be_focused()
    check_accessibility(watched.page)
    watched.page.get_by_label("API key", exact=True).fill("wrong")
    watched.page.keyboard.press("Enter")
    expect(watched.page.get_by_role("alert")).to_contain_text("doesn't accept that key")
    check_accessibility(watched.page)


def test_who_gives_no_key_reads_why(open_page: Open, guarded: Server) -> None:
    watched = open_page(f"{guarded.url}/", expected_error="status of 401")
    expect(watched.page.get_by_role("dialog")).to_be_visible()
    watched.page.keyboard.press("Escape")
    expect(watched.page.locator("#model")).to_contain_text("needs an API key")
    watched.bring("drop", *(image("green", seed) for seed in range(6)))
    expect(watched.page.get_by_role("dialog")).to_be_visible()
    watched.page.get_by_role("button", name="Cancel").click()
    expect(watched.page.locator(".card .problem:visible")).to_have_count(6)
    watched.page.get_by_role("button", name="API key").click()
    expect(watched.page.get_by_role("dialog")).to_be_visible()
