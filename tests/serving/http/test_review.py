"""Who may open the page of reviews inside the service. What it does: tests/serving/review."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, cast

import httpx
import pytest

from review.desk import Desk
from serving.admission.api_keys import Keys
from serving.core.dataplane import DataPlane
from tests.serving.http.test_app import app_of, check_problem, sha256

KEY = {"authorization": "Bearer admin"}


class StubDesk:
    def overview(self) -> dict[str, Any]:
        return {"images": 3}

    def start(self, job: str) -> None:
        pass


def client_of(classifier: DataPlane, **changes: Any) -> httpx.AsyncClient:
    options = {"keys": Keys([sha256("one")], sha256("admin")), "review": cast(Desk, StubDesk())}
    app = app_of(classifier, **(options | changes))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:3000")


@pytest.fixture
async def client(classifier: DataPlane) -> AsyncIterator[httpx.AsyncClient]:
    hosts = frozenset({"vgg19.example.org"})
    async with client_of(classifier, review_hosts=hosts) as client:
        yield client


@pytest.mark.parametrize("path", ["/review", "/review/", "/review/api/overview"])
async def test_without_the_setting_there_is_none(classifier: DataPlane, path: str) -> None:
    async with client_of(classifier, review=None) as client:
        check_problem(await client.get(path, headers=KEY), 404, "VGG19_REVIEW is not set")


async def test_the_page_itself_needs_no_key(client: httpx.AsyncClient) -> None:
    moved = await client.get("/review")
    assert (moved.status_code, moved.headers["location"]) == (307, "review/")
    page = await client.get("/review/")
    assert "Review images" in page.text
    assert "unsafe" not in page.headers["content-security-policy"]
    assert (await client.get("/review/page/main.js")).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (KEY, 200),
        ({}, 401),
        ({"authorization": "Bearer one"}, 401),  # an API key isn't enough
        (KEY | {"host": "vgg19.example.org"}, 200),
        (KEY | {"host": "VGG19.example.org:8443"}, 200),
        (KEY | {"host": "192.0.2.7:80"}, 200),
        (KEY | {"host": "[2001:db8::1]:3000"}, 200),
        (KEY | {"host": "[2001:db8::1]"}, 200),
        (KEY | {"host": "localhost"}, 200),
        (KEY | {"host": "evil.example"}, 421),
        (KEY | {"origin": "http://evil.example"}, 403),
        (KEY | {"sec-fetch-site": "cross-site"}, 403),
    ],
)
async def test_who_may_ask(client: httpx.AsyncClient, headers: dict[str, str], status: int) -> None:
    reply = await client.get("/review/api/overview", headers=headers)
    assert reply.status_code == status, reply.text
    if status == 421:
        assert "VGG19_REVIEW_HOSTS" in reply.json()["detail"]


async def test_what_changes_something_needs_the_pages_header(client: httpx.AsyncClient) -> None:
    body = {"job": "lay"}
    refused = await client.post("/review/api/jobs", json=body, headers=KEY)
    assert refused.status_code == 403
    taken = await client.post("/review/api/jobs", json=body, headers=KEY | {"x-review": "1"})
    assert taken.status_code == 200
