from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from serving.admission.api_keys import Keys
from serving.core.dataplane import DataPlane
from serving.http import pages
from tests.serving.http.test_app import app_of, check_problem, sha256
from web.static_files import BASE_STYLE

FILES = Path(pages.__file__).parent / "ui"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)


@pytest.fixture
async def client(classifier: DataPlane) -> AsyncIterator[httpx.AsyncClient]:
    """Without a key, of a service that asks for one."""
    transport = httpx.ASGITransport(app_of(classifier, keys=Keys([sha256("one")])))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


@pytest.mark.parametrize(("path", "file"), pages.PATHS.items())
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_every_file_is_there_without_a_key(
    client: httpx.AsyncClient, method: str, path: str, file: Path
) -> None:
    response = await client.request(method, path)
    content = file.read_bytes()
    assert response.status_code == 200
    assert response.headers["content-length"] == str(len(content))
    if method == "GET":
        assert response.content == content
    assert response.headers["content-security-policy"] == POLICY
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"
    kind = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
    expected = kind.get(file.suffix, "image/svg+xml")
    assert response.headers["content-type"].partition(";")[0] == expected


def test_no_file_is_forgotten() -> None:
    assert set(pages.PATHS.values()) == {BASE_STYLE, *FILES.iterdir()}


@pytest.mark.parametrize("known", ["{}", "W/{}", '"other", {}', "*"])
async def test_what_a_browser_has_is_not_sent_again(client: httpx.AsyncClient, known: str) -> None:
    first = await client.get("/")
    assert first.headers["cache-control"] == "no-cache"
    headers = {"If-None-Match": known.format(first.headers["etag"])}
    again = await client.get("/", headers=headers)
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    assert again.headers["content-security-policy"] == POLICY
    other = await client.get("/", headers={"If-None-Match": '"other"'})
    assert other.status_code == 200


@pytest.mark.parametrize(
    "path", ["/ui/", "/ui/index.html", "/ui/../http.py", "/ui/%2e%2e/http.py", "/ui/..%2fhttp.py"]
)
async def test_no_other_path_reaches_a_file(classifier: DataPlane, path: str) -> None:
    transport = httpx.ASGITransport(app_of(classifier))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        check_problem(await client.get(path), 404, "Not Found")
        check_problem(await client.post("/"), 405, "Method Not Allowed")


def test_it_names_no_host_and_no_place_at_the_root() -> None:
    """So that it works offline, and behind a path prefix."""
    for path in pages.PATHS.values():
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "//" not in re.sub(r"(?m)(^|\s)// .*$", "", text), path.name
        assert not re.search(r"""(src|href|action|from|fetch)\s*[=(]?\s*["'`]/""", text), path.name


def test_the_policy_needs_no_exception() -> None:
    page = (FILES / "index.html").read_text()
    assert not re.search(r"""<style|\sstyle=|\son\w+=|<script>|javascript:""", page)
    for path in FILES.glob("*.js"):
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacent|\beval\b|Storage|cookie|indexedDB",
            path.read_text(),
        ), path.name
