"""Pages of other origins, in front of everything that the service answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from serving.admission.api_keys import Keys
from serving.core.dataplane import DataPlane
from serving.http.app import RouteDispatch
from tests.serving.http.test_app import app_of, sha256, start_and_end

PAGE, OTHER = "https://app.example.org", "https://app.example.org.evil.example"
PROBES = ("/livez", "/readyz", "/healthz", "/metrics", "/schema.json")
ROUTES = [
    ("POST", "/classify"),
    ("GET", "/model"),
    ("GET", "/labels"),
    ("POST", "/feedback"),
    ("GET", "/v2"),
    ("GET", "/v2/health/ready"),
    ("GET", "/v2/models/vgg19"),
    ("POST", "/v2/models/vgg19/infer"),
    ("POST", "/v2/repository/index"),
    ("GET", "/openapi.json"),
    ("GET", "/docs"),
    ("GET", "/"),
    ("GET", "/no-such-route"),
    *(("GET", probe) for probe in PROBES),
]


@asynccontextmanager
async def service(
    classifier: DataPlane, origins: tuple[str, ...]
) -> AsyncIterator[httpx.AsyncClient]:
    """As BentoML runs it, with keys."""
    own = app_of(classifier, keys=Keys([sha256("key")], sha256("admin")))
    bentoml = Starlette(
        routes=[Route(probe, lambda _: PlainTextResponse("bentoml")) for probe in PROBES],
        middleware=[Middleware(RouteDispatch, own=own, origins=lambda: origins)],
    )
    await start_and_end(bentoml)
    transport = httpx.ASGITransport(bentoml)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


def preflight(method: str, origin: str = PAGE) -> dict[str, str]:
    return {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "authorization, content-type, x-request-id",
    }


@pytest.mark.slow
@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize("origins", [(PAGE,), ("https://x.example", PAGE), ("*",)])
async def test_every_route(
    classifier: DataPlane, method: str, path: str, origins: tuple[str, ...]
) -> None:
    allowed = "*" if origins == ("*",) else PAGE
    async with service(classifier, origins) as client:
        asked = await client.options(path, headers=preflight(method))  # without the key
        assert asked.status_code == 200
        assert asked.headers["access-control-allow-origin"] == allowed
        assert method in asked.headers["access-control-allow-methods"]
        for header in ("authorization", "content-type", "x-request-id"):
            assert header in asked.headers["access-control-allow-headers"]
        # Refused or not, a script may read the answer.
        for headers in ({}, {"Authorization": "Bearer key"}):
            answer = await client.request(method, path, headers={"Origin": PAGE, **headers})
            assert answer.headers["access-control-allow-origin"] == allowed
            assert "X-Request-Id" in answer.headers["access-control-expose-headers"]
            assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize("origin", [OTHER, "http://app.example.org", f"{PAGE}:8443", "null", ""])
async def test_other_origins(classifier: DataPlane, origin: str) -> None:
    async with service(classifier, (PAGE,)) as client:
        for method, path in ROUTES:
            asked = await client.options(path, headers=preflight(method, origin))
            assert asked.status_code == 400
            answer = await client.request(method, path, headers={"Origin": origin})
            for response in (asked, answer):
                assert "access-control-allow-origin" not in response.headers


async def test_none_by_default(classifier: DataPlane) -> None:
    async with service(classifier, ()) as client:
        for method, path in ROUTES:
            answers = [
                await client.options(path, headers=preflight(method)),
                await client.request(method, path, headers={"Origin": PAGE}),
            ]
            for answer in answers:
                assert not [name for name in answer.headers if name.startswith("access-control")]
