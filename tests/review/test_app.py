from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

from review import page_files
from review.app import make_app
from review.guard import own_hosts
from review.page_files import page_paths
from review.session import Session
from tests.review.made_up import make_pool, make_session
from web.static_files import BASE_STYLE

HEADERS = {"host": "127.0.0.1:3002", "x-review": "1"}


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    session = make_session(make_pool(tmp_path / "i", known=6, new=3), tmp_path / "r")
    yield session
    session.close()


@pytest.fixture
def page(session: Session) -> TestClient:
    app = make_app(session, own_hosts("127.0.0.1", 3002))
    return TestClient(app, headers=HEADERS, raise_server_exceptions=False)


def test_a_decision_there_and_back(page: TestClient) -> None:
    (card, *_) = page.get("/api/queue?tab=t&count=1").json()["cards"]
    assert (card["reason"], card["given"], card["standing"]["revision"]) == ("new", None, 0)
    sent = {"image": card["image"], "kind": "label", "label": "red", "who": "Ann", "base": 0}
    (taken,) = page.post("/api/decisions", json={"decisions": [sent]}).json()["taken"]
    assert taken["decision"]["revision"] == 1
    assert taken["standing"]["disputed"] is False
    assert page.get(f"/api/cards/{card['image']}").json()["standing"]["votes"][0]["who"] == "Ann"
    assert page.get("/api/overview").json()["decided"] == 1


def test_pictures(page: TestClient, session: Session) -> None:
    item = session._pool.items[0]
    reply = page.get(f"/images/{item.image}")
    assert reply.content == item.path.read_bytes()
    assert reply.headers["content-type"] == "image/png"
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["content-security-policy"] == "default-src 'none'; sandbox"
    small = Image.open(io.BytesIO(page.get(f"/thumbnails/{item.image}").content))
    assert small.size == (256, 256)


def test_what_no_browser_shows_is_converted_in_its_own_shape(
    page: TestClient, session: Session
) -> None:
    item = session._pool.items[0]
    Image.new("RGB", (60, 20), "red").save(item.path, "TIFF")
    reply = page.get(f"/images/{item.image}")
    assert reply.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(reply.content)).size == (2048, 683)


def test_what_only_claims_to_be_an_image_is_not_sent(page: TestClient, session: Session) -> None:
    item = session._pool.items[0]
    item.path.write_text("<script>alert(1)</script>")
    reply = page.get(f"/images/{item.image}")
    assert reply.status_code == 400
    assert "script" not in reply.text


@pytest.mark.parametrize(
    "path",
    [
        "/images/..%2f..%2f..%2fetc%2fpasswd", "/images/%2e%2e/%2e%2e/etc/passwd",
        "/images//etc/passwd", "/thumbnails/..%2fr%2fdecisions.jsonl", f"/images/{'0' * 64}",
        "/page/..%2fapp.py", "/page/../app.py", "/export/..%2flabels",
    ],
)  # fmt: skip
def test_no_path_leads_to_a_file(page: TestClient, path: str) -> None:
    reply = page.get(path)
    assert reply.status_code in (404, 409)
    assert "root:" not in reply.text


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ("{}", "decisions must be a list"),
        ('{"decisions": [1]}', "must be a JSON object"),
        ('{"decisions": [{"image": 1, "kind": "label", "who": "A"}]}', "each a text"),
        ('{"decisions": [{"image": "x", "kind": "skip", "who": "A", "label": 3}]}', "or null"),
        ('{"decisions": [{"image": "x", "kind": "skip", "who": "A", "base": true}]}', "numbers"),
        ('{"decisions": [{"image": "x", "kind": "skip", "who": "A"}]}', "there is no image 'x'"),
        ("[" * 100_000, "not JSON"),
        (" " * 1_000_001, "limit of 1,000,000 bytes"),
    ],
)
def test_what_the_page_never_sends_is_refused(page: TestClient, body: str, words: str) -> None:
    reply = page.post("/api/decisions", content=body)
    assert reply.status_code in (400, 404)
    assert words in reply.json()["detail"]


@pytest.mark.parametrize("query", ["count=0", "count=201", "count=x", "which=others"])
def test_a_queue_of_something_else_is_refused(page: TestClient, query: str) -> None:
    assert page.get(f"/api/queue?{query}").status_code == 400


def test_the_page_brings_its_policy(page: TestClient) -> None:
    reply = page.get("/")
    policy: Any = reply.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for name in ("main.js", "style.css"):
        assert page.get(f"/page/{name}").status_code == 200


@pytest.mark.parametrize("path", sorted(page_paths()))
@pytest.mark.parametrize("known", ["{}", "W/{}", '"other", {}'])
def test_what_a_browser_has_is_not_sent_again(page: TestClient, path: str, known: str) -> None:
    first = page.get(path)
    again = page.get(path, headers={"if-none-match": known.format(first.headers["etag"])})
    assert (again.status_code, again.content) == (304, b"")
    for name in ("etag", "cache-control", "content-security-policy", "cross-origin-opener-policy"):
        assert again.headers[name] == first.headers[name]
    other = page.get(path, headers={"if-none-match": '"other"'})
    assert (other.status_code, other.content) == (200, first.content)


def test_a_heat_map_that_there_is_none_of_says_why(page: TestClient, session: Session) -> None:
    path = f"/heat/{session._pool.items[7].image}"
    for label, words in (("red", "no network is loaded that has pixels"), ("zebra", "yet")):
        reply = page.get(path, params={"label": label})
        assert reply.status_code == 409
        assert words in reply.json()["detail"]


def test_what_nobody_foresaw_is_told_in_words(
    page: TestClient, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(which: str) -> None:
        raise KeyError("/secret")

    monkeypatch.setattr(session, "path", broken)
    reply = page.get(f"/images/{session._pool.items[0].image}")
    assert reply.status_code == 500
    assert "the log says why" in reply.json()["detail"]
    assert "secret" not in reply.text


def test_no_file_of_the_page_is_forgotten() -> None:
    folder = Path(page_files.__file__).parent / "page"
    files = {BASE_STYLE.name, *(path.name for path in folder.iterdir())}
    assert {Path(path).name or "index.html" for path in page_paths()} == files


def test_a_job_that_there_is_none_of(page: TestClient) -> None:
    reply = page.post("/api/jobs", json={"job": "rm"})
    assert reply.status_code == 409
    assert "no job 'rm'" in reply.json()["detail"]


def test_names_that_no_utf_8_has_are_told_all_the_same(page: TestClient, session: Session) -> None:
    item = session._pool.items[6]
    broken = replace(item, name="caf\udce9.png")
    session._pool = replace(session._pool, items=(*session._pool.items[:6], broken))
    assert page.get(f"/api/cards/{item.image}").json()["name"] == "caf\udce9.png"
    sent = {"image": item.image, "kind": "none", "who": "Ann\ud800"}
    reply = page.post("/api/decisions", content=json.dumps({"decisions": [sent]}))
    assert reply.json()["taken"][0]["decision"]["who"] == "Ann\ud800"
