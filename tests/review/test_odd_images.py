"""Files, and names of classes, that nobody designed the page for."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from starlette.testclient import TestClient

from review.app import make_app
from review.guard import own_hosts
from review.session import Session
from tests.review.made_up import make_pool, make_session

HEADERS = {"host": "127.0.0.1:3002", "x-review": "1"}
RED = Image.new("RGB", (64, 32), "red")
ON_ITS_SIDE = Image.Exif()
ON_ITS_SIDE[0x112] = 6


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def session_with(place: Path, name: str, content: bytes) -> Session:
    """Whose last image is this one."""
    pool = make_pool(place / "i", known=6, new=1)
    path = place / "i" / name
    path.write_bytes(content)
    image = hashlib.sha256(content).hexdigest()
    odd = replace(pool.items[-1], path=path, name=name, image=image)
    return make_session(replace(pool, items=(*pool.items[:-1], odd)), place / "r")


def page_of(session: Session) -> TestClient:
    return TestClient(make_app(session, own_hosts("127.0.0.1", 3002)), headers=HEADERS)


@pytest.mark.parametrize(
    ("name", "content", "kind", "small"),
    [
        ("q\"uo'te <b>.png", lambda: encoded(RED, "PNG"), "image/png", (256, 128)),
        (
            "\U0001f600\U0001f1e9\U0001f1ea.png",
            lambda: encoded(RED, "PNG"),
            "image/png",
            (256, 128),
        ),
        ("שלום\u202egnp.png", lambda: encoded(RED, "PNG"), "image/png", (256, 128)),
        ("1 px.png", lambda: encoded(RED.resize((1, 1)), "PNG"), "image/png", (256, 256)),
        ("wide.png", lambda: encoded(RED.resize((20_000, 1)), "PNG"), "image/png", (256, 1)),
        ("tall.tif", lambda: encoded(RED.resize((3, 20_000)), "TIFF"), "image/png", (1, 256)),
        (
            "moves.gif",
            lambda: encoded(RED, "GIF", save_all=True, append_images=[RED.rotate(180)]),
            "image/gif",
            (256, 128),
        ),
        ("cmyk.jpg", lambda: encoded(RED.convert("CMYK"), "JPEG"), "image/jpeg", (256, 128)),
        ("cmyk.tif", lambda: encoded(RED.convert("CMYK"), "TIFF"), "image/png", (256, 128)),
        ("side.jpg", lambda: encoded(RED, "JPEG", exif=ON_ITS_SIDE), "image/jpeg", (128, 256)),
    ],
)
def test_it_is_shown_and_labelled(
    tmp_path: Path, name: str, content: Callable[[], bytes], kind: str, small: tuple[int, int]
) -> None:
    session = session_with(tmp_path, name, content())
    page = page_of(session)
    (card,) = page.get("/api/queue?tab=t&which=new").json()["cards"]
    assert card["name"] == name
    assert page.get(f"/images/{card['image']}").headers["content-type"] == kind
    thumbnail = Image.open(io.BytesIO(page.get(f"/thumbnails/{card['image']}").content))
    assert thumbnail.size == small
    sent = {"image": card["image"], "kind": "label", "label": "red", "who": "Ann"}
    assert page.post("/api/decisions", json={"decisions": [sent]}).status_code == 200
    table = csv.reader(io.StringIO(page.get("/export/labels").text))
    assert [row[1] for row in table if row[0].endswith(name)] == ["red"]
    session.close()


def test_what_is_not_opened_says_which_format_it_is(tmp_path: Path) -> None:
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(50)
    session = session_with(tmp_path, "IMG_1.heic", heic)
    reply = page_of(session).get(f"/images/{hashlib.sha256(heic).hexdigest()}")
    assert reply.status_code == 400
    assert "HEIC isn't a supported format" in reply.json()["detail"]
    session.close()


@pytest.mark.parametrize("route", ["images", "thumbnails"])
def test_an_error_does_not_say_where_an_image_lies(tmp_path: Path, route: str) -> None:
    session = session_with(tmp_path, "a.png", b"GIF89a, or so")
    (card,) = page_of(session).get("/api/queue?tab=t&which=new").json()["cards"]
    session.path(card["image"]).write_bytes(b"no image")
    reply = page_of(session).get(f"/{route}/{card['image']}")
    assert reply.status_code == 400
    assert reply.json()["detail"].startswith("a.png: not an image")
    assert str(tmp_path) not in reply.text
    session.close()


@pytest.mark.parametrize(
    ("label", "says"),
    [
        ("Red", "'Red' differs from the class 'red' only in upper and lower case; choose 'red'"),
        ("RED", "choose 'red'"),
        ("r\u202eed", "'r\\u202eed' holds characters that can't be seen"),
        ("two\nlines", "'two\\nlines' holds"),
    ],
)
def test_a_new_class_can_be_told_from_others(tmp_path: Path, label: str, says: str) -> None:
    session = session_with(tmp_path, "a.png", encoded(RED, "PNG"))
    page = page_of(session)
    (card,) = page.get("/api/queue?tab=t&which=new").json()["cards"]
    sent = {"image": card["image"], "kind": "label", "label": label, "who": "Ann"}
    reply = page.post("/api/decisions", json={"decisions": [sent]})
    assert reply.status_code == 400
    assert says in reply.json()["detail"]
    assert page.get("/api/queue?tab=t&which=new").json()["cards"]  # nothing is said about it
    session.close()


@pytest.mark.parametrize(
    "label",
    ["<img src=x onerror=alert(1)>", "a/b", "../x", ".", 'a, "b"', "\U0001f600"],
)
def test_a_class_keeps_its_name(tmp_path: Path, label: str) -> None:
    session = session_with(tmp_path, "a.png", encoded(RED, "PNG"))
    page = page_of(session)
    (card,) = page.get("/api/queue?tab=t&which=new").json()["cards"]
    sent = {"image": card["image"], "kind": "label", "label": label, "who": "Ann"}
    page.post("/api/decisions", json={"decisions": [sent]})
    classes = [one["label"] for one in page.get("/api/overview").json()["classes"]]
    assert sorted(classes) == sorted(["blue", "green", "red", label])
    table = [*csv.reader(io.StringIO(page.get("/export/labels").text))]
    assert [row[1] for row in table if row[0].endswith("a.png")] == [label]
    session.close()


def test_three_hundred_classes(tmp_path: Path) -> None:
    session = make_session(make_pool(tmp_path / "i", known=3, new=300), tmp_path / "r", batch=300)
    page = page_of(session)
    new = [item.image for item in session._pool.items[3:]]
    sent = [
        {"image": image, "kind": "label", "label": f"class {number}", "who": "Ann"}
        for number, image in enumerate(new)
    ]
    assert page.post("/api/decisions", json={"decisions": sent}).status_code == 200
    session.wait()
    overview = page.get("/api/overview").json()
    assert (len(overview["classes"]), overview["fit"]["labels"]) == (303, 303)
    assert overview["problem"] is None
    session.close()
