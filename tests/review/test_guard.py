from __future__ import annotations

from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from review.guard import Guard, own_hosts

PAGE = {"host": "127.0.0.1:3002", "x-review": "1"}


async def answer(request: Request) -> Response:
    return PlainTextResponse("here")


def client(key: str | None = None) -> TestClient:
    guard = Middleware(Guard, hosts=own_hosts("127.0.0.1", 3002), key=key, public=frozenset({"/"}))
    routes = [Route(path, answer, methods=["GET", "POST"]) for path in ("/", "/api")]
    return TestClient(Starlette(routes=routes, middleware=[guard]))


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("GET", {}, 200),
        ("POST", {}, 200),
        ("GET", {"host": "localhost:3002"}, 200),
        ("GET", {"host": "[::1]:3002"}, 200),
        ("POST", {"origin": "http://127.0.0.1:3002"}, 200),
        ("GET", {"host": "evil.example:3002"}, 421),  # DNS rebinding
        ("GET", {"host": "127.0.0.1"}, 421),
        ("GET", {"host": ""}, 421),
        ("POST", {"origin": "http://evil.example"}, 403),
        ("POST", {"origin": "null"}, 403),  # a sandboxed frame
        ("POST", {"origin": "http://[::1"}, 403),
        ("POST", {"origin": "http://127.0.0.1:9999"}, 403),  # another page of this machine
        ("POST", {"x-review": ""}, 403),  # a form of another site
        ("GET", {"sec-fetch-site": "cross-site"}, 403),
        ("GET", {"sec-fetch-site": "same-site"}, 403),
        ("GET", {"sec-fetch-site": "none"}, 200),  # typed into the address bar
    ],
)
def test_only_its_own_page_may_ask(method: str, headers: dict[str, str], status: int) -> None:
    assert client().request(method, "/api", headers=PAGE | headers).status_code == status


def test_what_is_refused_says_what_to_do() -> None:
    reply = client().get("/api", headers=PAGE | {"host": "box.lan:3002"})
    assert reply.json()["detail"].startswith("'box.lan:3002' is not a name of this page")
    assert "--allow-host NAME" in reply.json()["detail"]


@pytest.mark.parametrize(
    ("authorization", "status"),
    [("Bearer open sesame", 200), ("Bearer wrong", 401), ("Basic open sesame", 401), (None, 401)],
)
def test_a_key_is_asked_for(authorization: str | None, status: int) -> None:
    headers: dict[str, Any] = PAGE | ({"authorization": authorization} if authorization else {})
    reply = client("open sesame").get("/api", headers=headers)
    assert reply.status_code == status
    assert ("www-authenticate" in reply.headers) == (status == 401)


def test_the_page_itself_needs_none() -> None:
    guarded = client("open sesame")
    assert guarded.get("/", headers={"host": "127.0.0.1:3002"}).status_code == 200
    assert guarded.post("/", headers=PAGE).status_code == 401


@pytest.mark.parametrize(
    ("host", "asked", "taken"),
    [
        ("192.0.2.7", "192.0.2.7:3002", True),
        ("192.0.2.7", "box.lan", True),  # behind a proxy
        ("192.0.2.7", "box.lan:3002", True),
        ("192.0.2.7", "127.0.0.1:3002", False),
        ("0.0.0.0", "192.0.2.7:3002", True),  # any address, which no other site's name is
        ("0.0.0.0", "[2001:db8::1]:3002", True),
        ("0.0.0.0", "192.0.2.7:80", False),
        ("0.0.0.0", "evil.example:3002", False),
        ("0.0.0.0", "192.0.2.7", False),
    ],
)
def test_what_it_may_be_called(host: str, asked: str, taken: bool) -> None:
    assert (asked in own_hosts(host, 3002, ["Box.lan"])) is taken


def test_the_usual_port_may_be_left_out() -> None:
    assert "[::1]" in own_hosts("::1", 80)
    assert "[::1]:80" in own_hosts("::1", 80)
    everywhere = own_hosts("0.0.0.0", 80)
    assert "192.0.2.7" in everywhere
    assert "[2001:db8::1]" in everywhere
    assert "192.0.2.7:80" in everywhere
    assert "evil.example" not in everywhere
    assert "192.0.2.7:8080" not in everywhere
