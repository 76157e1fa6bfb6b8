from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry

from models.monitoring.shadow_rule import ShadowRule
from models.registry import canaries, shadowing, store
from models.registry.promotions import History
from models.registry.tallies import Picture, Pictures, write_pictures
from serving.admission.api_keys import Keys
from serving.core.dataplane import DataPlane
from serving.core.pool import DesiredVersion
from serving.http import overview
from serving.http.schema import OverviewReply
from serving.observability import production
from serving.observability.production import Production
from serving.observability.traffic import traffic
from testing.bundles import write_tiny_bundle
from tests.serving.conftest import telemetry_of
from tests.serving.http.test_app import app_of, check_problem, sha256

ADMIN = {"Authorization": "Bearer admin"}
USER = {"Authorization": "Bearer user"}


@pytest.fixture
def changed() -> list[str]:
    return []


@pytest.fixture
async def client(classifier: DataPlane, changed: list[str]) -> AsyncIterator[httpx.AsyncClient]:
    looks = Production(lambda: changed.append("changed"))
    app = app_of(classifier, keys=Keys([sha256("user")], sha256("admin")), production=looks)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client
    looks.close()


@pytest.fixture
def versions(store_home: Path, tmp_path: Path) -> list[str]:
    """Two registered ones; the second is promoted after the first."""
    days = ("2026-01-01T00:00:00+00:00", "2026-02-01T00:00:00+00:00")
    tags = [store.register(write_tiny_bundle(tmp_path / day[:7], created_at=day)) for day in days]
    for tag in tags:
        store.promote(tag)
    return [tag.removeprefix("vgg19:") for tag in tags]


@pytest.mark.usefixtures("store_home")
@pytest.mark.parametrize(
    ("keys", "review", "headers", "told"),
    [
        (Keys([sha256("user")], sha256("admin")), object(), ADMIN, True),
        (Keys([sha256("user")], sha256("admin")), object(), USER, False),
        (Keys([], sha256("admin")), object(), {}, True),  # the page asks for the key itself
        (Keys([sha256("user")], sha256("admin")), None, ADMIN, False),
        (Keys([], sha256("admin")), None, {}, False),
    ],
)
async def test_reviews_are_told_of_only_to_who_may_open_them(
    classifier: DataPlane, keys: Keys, review: object, headers: dict[str, str], told: bool
) -> None:
    looks = Production(lambda: None)
    app = app_of(classifier, keys=keys, review=review, production=looks)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        reply = (await client.get("/overview", headers=headers)).json()
    looks.close()
    assert reply["reviews"] is told


@pytest.mark.usefixtures("store_home")
async def test_it_works_where_nothing_was_promoted(client: httpx.AsyncClient) -> None:
    response = await client.get("/overview", headers=USER)
    assert response.headers["cache-control"] == "no-store"
    reply = OverviewReply.model_validate(response.json())
    assert (reply.model.version, reply.model.since, reply.history) == ("v1", None, [])
    assert (reply.rollback_to, reply.administered, reply.model.problems) == (None, True, [])


async def test_what_serves_since_when(
    client: httpx.AsyncClient, store_home: Path, classifier: DataPlane
) -> None:
    history = History(store_home / "models" / "vgg19")
    for version in ("v0", "v1"):
        history.promote(version, f"why of {version}")
    reply = OverviewReply.model_validate((await client.get("/overview", headers=USER)).json())
    assert reply.model.since == history.promotions()[0].at
    assert [(one.version, one.why, one.replaced) for one in reply.history] == [
        ("v1", "why of v1", "v0"),
        ("v0", "why of v0", None),
    ]
    assert reply.rollback_to == "v0"
    history.promote("broken", "by hand")
    await classifier.models.follow(DesiredVersion("broken"))
    reply = OverviewReply.model_validate((await client.get("/overview", headers=USER)).json())
    assert (reply.model.version, reply.model.since) == ("v1", None)
    assert reply.model.problems == ["broken can't be loaded: no model broken"]


async def test_the_way_back(
    client: httpx.AsyncClient, versions: list[str], changed: list[str]
) -> None:
    first, second = versions
    request = {"version": second}
    check_problem(await client.post("/rollback", json=request), 401, "this needs a key")
    check_problem(await client.post("/rollback", json=request, headers=USER), 401, "needs a key")
    assert store.production_version() == second
    done = await client.post("/rollback", json=request, headers=ADMIN)
    assert (done.status_code, done.json()) == (200, {"version": first})
    assert store.production_version() == first
    assert store.promotions()[0].why == "rolled back on the page"
    assert changed == ["changed"]


async def test_the_page_of_somebody_who_comes_late_changes_nothing(
    client: httpx.AsyncClient, versions: list[str], changed: list[str]
) -> None:
    first, second = versions
    response = await client.post("/rollback", json={"version": first}, headers=ADMIN)
    check_problem(response, 409, f"production is {second} by now, and not {first}")
    assert store.production_version() == second
    assert changed == []


@pytest.mark.usefixtures("store_home")
async def test_a_page_that_looks_is_no_traffic(
    classifier: DataPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = CollectorRegistry()
    monkeypatch.setattr(overview, "traffic", lambda: traffic(registry))
    app = app_of(classifier, keys=Keys([sha256("user")]), telemetry=telemetry_of(registry))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        await client.get("/labels", headers=USER)
        for _ in range(2):
            assert (await client.get("/overview", headers=USER)).status_code == 200
        await client.get("/overview")  # without a key
        reply = (await client.get("/overview", headers=USER)).json()["traffic"]
    assert (reply["requests"], reply["outcomes"]) == (2, {"ok": 1, "unauthenticated": 1})


async def test_nothing_to_go_back_to(client: httpx.AsyncClient, store_home: Path) -> None:
    History(store_home / "models" / "vgg19").promote("v1", "the first")
    response = await client.post("/rollback", json={"version": "v1"}, headers=ADMIN)
    check_problem(response, 409, "there is nothing to go back to")


@pytest.mark.parametrize("body", [{}, {"version": ""}, {"version": 7}, {"version": "v" * 101}])
async def test_a_rollback_names_what_is_in_production(
    client: httpx.AsyncClient, body: dict[str, object]
) -> None:
    check_problem(await client.post("/rollback", json=body, headers=ADMIN), 422, "'version' must")


async def test_without_an_admin_key_nobody_rolls_back(classifier: DataPlane) -> None:
    transport = httpx.ASGITransport(app_of(classifier))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        check_problem(await client.post("/rollback", json={"version": "v1"}), 404, "Not Found")


@pytest.fixture
def hanging_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    released = threading.Event()
    monkeypatch.setattr(store, "promotions", released.wait)
    monkeypatch.setattr(production, "_LIMIT_S", 0.05)
    yield
    released.set()


@pytest.mark.usefixtures("hanging_store", "store_home")
async def test_a_store_that_hangs_holds_nobody_up(client: httpx.AsyncClient) -> None:
    for _ in range(2):
        response = await client.get("/overview", headers=USER)
        check_problem(response, 503, "doesn't answer within 0.05 s")


async def test_what_is_tried_beside_production(
    client: httpx.AsyncClient, versions: list[str]
) -> None:
    first, second = versions
    assert (await client.get("/overview/differing", headers=ADMIN)).json() == {"images": []}
    shadow = shadowing.start_shadow(first, ShadowRule())
    picture = Picture(
        png="aGk=", difference=0.7, production="rose", candidate="tulip",
        production_confidence=0.9, candidate_confidence=0.8,
    )  # fmt: skip
    write_pictures(shadowing.directory(), shadow.id, "a-1", Pictures(pictures=[picture]))
    reply = OverviewReply.model_validate((await client.get("/overview", headers=USER)).json())
    assert reply.shadow is not None
    assert (reply.shadow["shadow"]["version"], reply.shadow["outcome"]) == (first, "waiting")
    assert reply.canary is None
    images = (await client.get("/overview/differing", headers=ADMIN)).json()["images"]
    assert images == [picture.model_dump()]
    shadowing.stop_shadow()
    canaries.start_canary(first, [5.0, 25.0], wait_hours=1, min_requests=10)
    reply = OverviewReply.model_validate((await client.get("/overview", headers=USER)).json())
    assert reply.shadow is None
    assert reply.canary is not None
    assert (reply.canary["percent"], reply.canary["canary"]["against"]) == (5.0, second)
