"""Who may ask what: every route, with no key, a user's key and the admin key."""

from __future__ import annotations

import httpx
import pytest
from starlette.routing import Route

from serving.admission.api_keys import Keys
from serving.core.dataplane import DataPlane
from serving.http import pages, review
from serving.http.app import create_app
from tests.serving.http.test_app import app_of, sha256

_MODEL = "/v2/models/{name}"
# Tells nothing of images, models or traffic: probes, the interface, the page's files.
NO_KEY = {"/v2", "/v2/health/live", "/v2/health/ready", "/openapi.json", "/docs.json", "/docs"}
NO_KEY |= {*pages.PATHS, review.REVIEW}
# Classifying, what is served, and counts: figures, and no image.
ANY_KEY = {"/classify", "/model", "/labels", "/feedback", "/drift", "/overview"}
ANY_KEY |= {
    f"{model}{rest}"
    for model in (_MODEL, f"{_MODEL}/versions/{{version}}")
    for rest in ("", "/ready", "/config", "/infer", "/stats")
}
ANY_KEY |= {
    "/v2/models/stats",
    *(f"/v2/{kind}sharedmemory/{{rest:path}}" for kind in ("system", "cuda")),
}
# Clients' images, and what changes what is served.
ADMIN_KEY = {
    "/overview/differing",
    "/rollback",
    "/v2/repository/index",
    "/v2/repository/models/{name}/load",
    "/v2/repository/models/{name}/unload",
}
ROUTES = [route for route in create_app().routes if isinstance(route, Route)]


def test_each_route_has_its_row() -> None:
    paths = {route.path for route in ROUTES}
    assert paths == NO_KEY | ANY_KEY | ADMIN_KEY
    assert len(paths) == len(NO_KEY) + len(ANY_KEY) + len(ADMIN_KEY)


@pytest.mark.usefixtures("store_home")
@pytest.mark.parametrize("key", ["", "user", "admin"])
@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.path)
async def test_who_may(classifier: DataPlane, route: Route, key: str) -> None:
    allowed = {"": NO_KEY, "user": NO_KEY | ANY_KEY, "admin": NO_KEY | ANY_KEY | ADMIN_KEY}
    app = app_of(classifier, keys=Keys([sha256("user")], sha256("admin")))
    assert (await ask(app, route, key) != 401) == (route.path in allowed[key])


@pytest.mark.usefixtures("store_home")
@pytest.mark.parametrize(("key", "status"), [("", 401), ("user", 401), ("admin", 404)])
@pytest.mark.parametrize("path", ["api/overview", "api/images/0", "nowhere"])
async def test_below_the_page_of_reviews_all_needs_the_admin_key(
    classifier: DataPlane, path: str, key: str, status: int
) -> None:
    """404: there are no reviews here. It is mounted, so its routes are not among `ROUTES`."""
    app = app_of(classifier, keys=Keys([sha256("user")], sha256("admin")))
    assert await ask(app, Route(f"{review.REVIEW}/{path}", app), key) == status


@pytest.mark.usefixtures("store_home")
@pytest.mark.parametrize("path", sorted(ADMIN_KEY))
async def test_without_an_admin_key_there_is_no_such_route(
    classifier: DataPlane, path: str
) -> None:
    (route,) = (route for route in ROUTES if route.path == path)
    assert await ask(app_of(classifier), route, "") == 404


async def ask(app: object, route: Route, key: str) -> int:
    """The status, of a request without a body."""
    path = route.path.replace("{rest:path}", "status").format(name="vgg19", version="v1")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        method = "POST" if "POST" in (route.methods or ()) else "GET"
        return (await client.request(method, path, headers=headers)).status_code
