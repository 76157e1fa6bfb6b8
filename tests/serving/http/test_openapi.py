from __future__ import annotations

import re
from typing import Any

import httpx
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from pydantic import BaseModel
from starlette.routing import Route

from serving.admission.api_keys import Keys
from serving.core.dataplane import DataPlane
from serving.http import schema
from serving.http.app import create_app
from serving.http.openapi import document
from testing.docs.check import ROOT
from testing.images import coloured_pixels, encode
from tests.serving.conftest import StubModel
from tests.serving.http.test_app import app_of, sha256
from tests.serving.v2_json import image_input

IMAGE = encode(coloured_pixels(1))
ADMIN = {"Authorization": "Bearer admin"}


def test_it_is_valid() -> None:
    OpenAPIV31SpecValidator(document()).validate()


def test_it_describes_every_route_and_no_other() -> None:
    described = {
        (path, method.upper()) for path, item in document()["paths"].items() for method in item
    }
    routes = {
        (route.path, method)
        for route in create_app().routes
        if isinstance(route, Route) and route.include_in_schema
        for method in route.methods or ()
        if method != "HEAD"
    }
    assert described == routes


def test_the_page_documents_every_route_of_its_own() -> None:
    """Those of the protocol are in a table that joins some of them."""
    page = (ROOT / "docs" / "api.md").read_text()
    own = [path for path in document()["paths"] if not path.startswith("/v2")]
    assert [path for path in own if not re.search(rf"{path}[`?]", page)] == []


def test_the_old_name_of_a_stage_is_deprecated() -> None:
    stages = document()["components"]["schemas"]["StageTimings"]["properties"]
    assert [name for name, stage in stages.items() if stage.get("deprecated")] == ["run"]


def test_every_reference_has_its_schema() -> None:
    names = set(re.findall(r"#/components/schemas/(\w+)", str(document())))
    assert names <= set(document()["components"]["schemas"])


@pytest.fixture
def client(classifier: DataPlane) -> httpx.AsyncClient:
    app = app_of(classifier, keys=Keys([], sha256("admin")))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test", headers=ADMIN)


@pytest.mark.parametrize(
    ("method", "path", "content", "reply"),
    [
        ("POST", "/classify", IMAGE, schema.ClassifyReply),
        ("GET", "/model", None, schema.ModelReply),
        ("GET", "/labels", None, schema.LabelsReply),
        ("GET", "/v2", None, schema.ServerReply),
        ("GET", "/v2/health/live", None, schema.LiveReply),
        ("GET", "/v2/health/ready", None, schema.ReadyReply),
        ("GET", "/v2/models/vgg19", None, schema.ModelMetadataReply),
        ("GET", "/v2/models/vgg19/versions/v1", None, schema.ModelMetadataReply),
        ("GET", "/v2/models/vgg19/ready", None, schema.ReadyReply),
        ("GET", "/v2/models/vgg19/config", None, schema.ModelConfigReply),
        ("GET", "/v2/models/vgg19/versions/v1/stats", None, schema.StatisticsReply),
        ("GET", "/v2/models/stats", None, schema.StatisticsReply),
        ("POST", "/v2/models/vgg19/infer", {"inputs": [image_input(IMAGE)]}, schema.InferReply),
        ("GET", "/nowhere", None, schema.Problem),
        ("POST", "/classify", b"no image", schema.Problem),
    ],
)
async def test_replies_are_as_described(
    client: httpx.AsyncClient, method: str, path: str, content: Any, reply: type[BaseModel]
) -> None:
    body = {"json": content} if isinstance(content, dict) else {"content": content}
    headers = {"Content-Type": "image/png"} if isinstance(content, bytes) else {}
    response = await client.request(method, path, headers=headers, **body)
    reply.model_validate_json(response.content)


async def test_the_index_is_as_described(client: httpx.AsyncClient) -> None:
    entries = (await client.post("/v2/repository/index", json={})).json()
    assert [schema.IndexEntryReply.model_validate(entry).version for entry in entries] == [
        "v1", "v2", "broken",
    ]  # fmt: skip


async def test_a_failed_load_is_as_described(
    client: httpx.AsyncClient, classifier: DataPlane, model: StubModel
) -> None:
    from serving.core.pool import DesiredVersion

    await classifier.models.follow(DesiredVersion("broken"))
    reply = schema.ModelReply.model_validate_json((await client.get("/model")).content)
    assert reply.failed_load == schema.FailedLoadReply(version="broken", reason="no model broken")


async def test_the_page_shows_it(client: httpx.AsyncClient) -> None:
    assert (await client.get("/openapi.json")).json() == document()
    page = await client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert 'url: "openapi.json"' in page.text
    assert not re.search(r"(src|href)=\"(https?:)?//", page.text)  # it works offline
    assert '<a class="quiet" href="docs">' in (await client.get("/")).text
