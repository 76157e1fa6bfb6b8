from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.admission.api_keys import Keys
from serving.admission.rate_limit import RateLimit
from serving.core.dataplane import DataPlane
from serving.core.errors import RequestError
from serving.core.pool import DesiredVersion, ModelPool
from serving.engine.session import ModelOutput
from serving.http import pages, review
from serving.http.app import RouteDispatch, create_app
from serving.http.classify import _read_upload
from testing.bundles import tiny_heat_map, tiny_probabilities
from testing.images import COLOURS as LABELS
from testing.images import coloured_pixels, encode
from tests.serving.conftest import LIMITS, STUB_CONFIDENCE, StubModel, context_of, stub_distance

PIXELS = np.stack([coloured_pixels(seed) for seed in range(8)])
IMAGES = [encode(pixels) for pixels in PIXELS]
PNG = {"Content-Type": "image/png"}
PICKLE = "application/vnd.bentoml+pickle"


def app_of(classifier: DataPlane, **changes: Any) -> Starlette:
    app = create_app()
    app.state.context = context_of(classifier, **changes)
    return app


@pytest.fixture
async def client(classifier: DataPlane) -> AsyncIterator[httpx.AsyncClient]:
    app = app_of(classifier)
    # The app raises internal errors again for the log, after it has answered.
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


def check_problem(response: httpx.Response, status: int, detail: str) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert set(problem) - {"error"} == {"type", "title", "status", "detail"}
    if "error" in problem:  # what clients of the v2 protocol look at
        assert problem["error"] == problem["detail"]
    assert ("error" in problem) == response.url.path.startswith("/v2")
    assert problem["status"] == status
    assert detail in problem["detail"]


async def test_which_answers_are_accepted(client: httpx.AsyncClient) -> None:
    files = [("image", (f"{number}.png", image)) for number, image in enumerate(IMAGES)]
    files[3] = ("image", ("3.txt", b"none"))
    reply = (await client.post("/classify", files=files)).json()
    accepted = set()
    for number, image in enumerate(reply["images"]):
        if number == 3:
            assert set(image) == {"filename", "error"}
            continue
        distance = stub_distance(PIXELS[number])
        assert image["distance"] == pytest.approx(distance)
        confident = image["predictions"][0]["probability"] >= STUB_CONFIDENCE
        assert image["accepted"] is (confident and distance <= 1)
        accepted.add(image["accepted"])
    assert accepted == {True, False}
    model = (await client.get("/model")).json()
    assert model["acceptance"] == {"target_precision": 0.9, "min_confidence": STUB_CONFIDENCE}


async def test_heat_maps(client: httpx.AsyncClient) -> None:
    plain = (await client.post("/classify", content=IMAGES[1], headers=PNG)).json()
    assert "heatmap" not in plain["images"][0]
    assert set(plain["timings_ms"]) == {"decode", "queue", "inference", "run"}
    assert plain["timings_ms"]["run"] == plain["timings_ms"]["inference"]  # its old name
    for query, index in (("explain=true", None), ("explain=true&target=green", 1)):
        reply = (await client.post(f"/classify?{query}", content=IMAGES[1], headers=PNG)).json()
        predictions, heat_map = reply["images"][0]["predictions"], reply["images"][0]["heatmap"]
        assert predictions == plain["images"][0]["predictions"]
        expected = predictions[0]["index"] if index is None else index
        assert (heat_map["index"], heat_map["label"]) == (expected, LABELS[expected])
        values = tiny_heat_map(PIXELS[1], expected)
        np.testing.assert_allclose(heat_map["values"], values, atol=6e-5)
        assert reply["timings_ms"]["explain"] > 0


async def test_heat_maps_of_a_form_skip_bad_images(client: httpx.AsyncClient) -> None:
    files = [
        ("image", ("a.png", IMAGES[0])),
        ("image", ("b.txt", b"none")),
        ("image", ("c.png", IMAGES[2])),
    ]
    form = {"explain": "true", "target": "red"}
    images = (await client.post("/classify", files=files, data=form)).json()["images"]
    assert ["heatmap" in image for image in images] == [True, False, True]
    for image, pixels in ((images[0], PIXELS[0]), (images[2], PIXELS[2])):
        np.testing.assert_allclose(image["heatmap"]["values"], tiny_heat_map(pixels, 2), atol=6e-5)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("explain=yes", "explain is 'yes', it must be true or false"),
        ("target=red", "send explain=true as well"),
        ("explain=true&target=pink", "target is 'pink', it must be one of the model's 3 labels"),
    ],
)
async def test_heat_maps_that_cannot_be(client: httpx.AsyncClient, query: str, said: str) -> None:
    response = await client.post(f"/classify?{query}", content=IMAGES[0], headers=PNG)
    check_problem(response, 422, said)


async def test_raw_body(client: httpx.AsyncClient) -> None:
    response = await client.post("/classify?top_k=2", content=IMAGES[1], headers=PNG)
    assert response.status_code == 200
    reply = response.json()
    assert (reply["model_name"], reply["model_version"]) == ("vgg19", "v1")
    (image,) = reply["images"]
    assert image["filename"] is None
    expected = tiny_probabilities(PIXELS[1:2])[0]
    assert image["predictions"][0]["label"] == "green"
    assert len(image["predictions"]) == 2
    for prediction in image["predictions"]:
        assert prediction["probability"] == pytest.approx(float(expected[prediction["index"]]))


async def test_options_may_be_fields_of_the_form(client: httpx.AsyncClient) -> None:
    """As BentoML's client sends them."""
    files = [("image", ("a.png", IMAGES[1]))]
    reply = (await client.post("/classify", files=files, data={"top_k": "2"})).json()
    assert len(reply["images"][0]["predictions"]) == 2
    reply = (await client.post("/classify?top_k=1", files=files, data={"top_k": "2"})).json()
    assert len(reply["images"][0]["predictions"]) == 1  # the address wins
    response = await client.post("/classify", files=files, data={"threshold": "x"})
    check_problem(response, 422, "threshold is 'x'")


async def test_multipart_with_several_images_in_order(client: httpx.AsyncClient) -> None:
    files = [("image", (f"{i}.png", image)) for i, image in enumerate(IMAGES)]
    reply = (await client.post("/classify?top_k=3", files=files)).json()
    assert [image["filename"] for image in reply["images"]] == [f"{i}.png" for i in range(8)]
    for image, expected in zip(reply["images"], tiny_probabilities(PIXELS), strict=True):
        by_index = sorted(image["predictions"], key=lambda p: p["index"])
        assert [p["probability"] for p in by_index] == pytest.approx(expected.tolist())


@pytest.mark.parametrize(("query", "count"), [("", 5), ("?top_k=6", 6), ("?top_k=99", 7)])
async def test_top_k_is_five_by_default_and_at_most_all(
    client: httpx.AsyncClient,
    classifier: DataPlane,
    model: StubModel,
    monkeypatch: pytest.MonkeyPatch,
    query: str,
    count: int,
) -> None:
    labels = tuple("abcdefg")
    served = classifier.models.current
    monkeypatch.setattr(served, "spec", served.spec.model_copy(update={"labels": labels}))
    outputs = ModelOutput(np.full(7, 1 / 7, np.float32))
    monkeypatch.setattr(served.batcher, "_run", lambda images: [outputs] * len(images))
    reply = (await client.post(f"/classify{query}", content=IMAGES[0], headers=PNG)).json()
    assert len(reply["images"][0]["predictions"]) == count


@pytest.mark.parametrize("body", [b"", b"no image", IMAGES[0][:60]])
async def test_a_body_that_is_no_image(client: httpx.AsyncClient, body: bytes) -> None:
    response = await client.post("/classify", content=body, headers=PNG)
    check_problem(response, 400, "image" if body else "the body is empty")


async def test_a_bad_one_of_several_fails_alone(client: httpx.AsyncClient) -> None:
    files = [("image", ("a.png", IMAGES[0])), ("image", ("b.png", b"no"))]
    response = await client.post("/classify", files=[*files, ("image", ("c.png", IMAGES[2]))])
    assert response.status_code == 200
    first, bad, third = response.json()["images"]
    assert first["predictions"][0]["label"] == "blue"
    assert third["predictions"][0]["label"] == "red"
    assert bad["filename"] == "b.png"
    assert bad["error"].startswith("image 1: not an image")
    assert "predictions" not in bad
    check_problem(await client.post("/classify", files=files[1:]), 400, "not an image")


async def test_threshold(client: httpx.AsyncClient) -> None:
    expected = sorted(tiny_probabilities(PIXELS[1:2])[0].tolist(), reverse=True)
    between = (expected[0] + expected[1]) / 2
    response = await client.post(f"/classify?threshold={between}", content=IMAGES[1], headers=PNG)
    assert [p["label"] for p in response.json()["images"][0]["predictions"]] == ["green"]


@pytest.mark.parametrize("value", ["-0.1", "1.1", "nan", "x", ""])
async def test_bad_threshold(client: httpx.AsyncClient, value: str) -> None:
    response = await client.post(
        "/classify", params={"threshold": value}, content=IMAGES[0], headers=PNG
    )
    check_problem(response, 422, "it must be a probability, 0 to 1")


async def test_the_clients_own_time_limit(client: httpx.AsyncClient, model: StubModel) -> None:
    model.seconds = 0.2
    headers = PNG | {"X-Request-Timeout-Ms": "50"}
    response = await client.post("/classify", content=IMAGES[0], headers=headers)
    check_problem(response, 504, "no answer within 0.05 s")
    for value in ("0", "-1", "nan", "inf", "soon"):
        headers = PNG | {"X-Request-Timeout-Ms": value}
        response = await client.post("/classify", content=IMAGES[0], headers=headers)
        check_problem(response, 422, "it must be a number above 0")


async def test_model_and_labels(client: httpx.AsyncClient, models: ModelPool) -> None:
    reply = (await client.get("/model")).json()
    assert (reply["name"], reply["version"]) == ("vgg19", "v1")
    assert (reply["device"], reply["provider"]) == ("cpu", "CPUExecutionProvider")
    assert reply["spec"]["preprocessing"]["image_size"] == 32
    assert reply["metrics"] == {"held_out": {"accuracy": 0.9}}
    assert reply["failed_load"] is None
    assert (await client.get("/labels")).json() == {"labels": ["blue", "green", "red"]}

    await models.load("v2")
    await models.follow(DesiredVersion("broken"))
    reply = (await client.get("/model")).json()
    assert reply["version"] == "v1"
    assert reply["loaded_versions"] == ["v1", "v2"]
    assert reply["failed_load"] == {"version": "broken", "reason": "no model broken"}


@pytest.mark.parametrize("top_k", ["0", "-1", "1.5", "x", "", "²", "9" * 5000])
async def test_bad_top_k(client: httpx.AsyncClient, top_k: str) -> None:
    response = await client.post(
        "/classify", params={"top_k": top_k}, content=IMAGES[0], headers=PNG
    )
    check_problem(response, 422, "it must be a whole number, 1 to")


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", ""])
async def test_other_media_types(client: httpx.AsyncClient, content_type: str) -> None:
    headers = {"Content-Type": content_type}
    response = await client.post("/classify", content=IMAGES[0], headers=headers)
    check_problem(response, 415, "multipart/form-data with 'image' parts")


@pytest.mark.parametrize(
    "files",
    [[("picture", ("a.png", IMAGES[0]))], [("image", (None, "http://127.0.0.1/a.png"))]],
)
async def test_forms_without_image_files(client: httpx.AsyncClient, files: object) -> None:
    response = await client.post("/classify", files=files)  # type: ignore[arg-type]
    check_problem(response, 422, "file parts named 'image'")


async def test_a_broken_form(client: httpx.AsyncClient) -> None:
    headers = {"Content-Type": "multipart/form-data"}
    check_problem(await client.post("/classify", content=b"x", headers=headers), 400, "boundary")


@pytest.mark.parametrize(
    ("charset", "filename"),
    [("raw_unicode_escape", "\\ud800"), ("utf-7", "+2AA-"), ("idna", "xn--a-"), ("none", "a")],
)
async def test_the_charset_of_a_form_does_no_harm(
    client: httpx.AsyncClient, charset: str, filename: str
) -> None:
    head = f'--x\r\nContent-Disposition: form-data; name="image"; filename="{filename}"\r\n\r\n'
    body = head.encode() + IMAGES[0] + b"\r\n--x--\r\n"
    headers = {"Content-Type": f"multipart/form-data; charset={charset}; boundary=x"}
    response = await client.post("/classify", content=body, headers=headers)
    assert response.status_code == 200
    assert response.json()["images"][0]["filename"] == filename


FORM_PIECES = st.sampled_from(
    [b"--x", b"--x--", b"\r\n", b"\r\n\r\n", b"Content-Disposition: form-data", b"; name=image",
     b'; name="image"; filename="a"', b"; filename*=utf-8''%ff", b"Content-Type: image/png", b":",
     b"; filename*0*=", b"; filename*=", b"; filename*", b"undefined''", b"idna''%\xc3",
     b'"', b"\0", b"\xff", IMAGES[0]]
)  # fmt: skip


@settings(deadline=None)
@given(st.lists(FORM_PIECES | st.binary(max_size=20), max_size=30).map(b"".join))
def test_any_form_gives_images_or_a_refusal(body: bytes) -> None:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    headers = [(b"content-type", b"multipart/form-data; boundary=x")]
    scope = {"type": "http", "method": "POST", "headers": headers, "app": None}
    try:
        upload = asyncio.run(_read_upload(Request(scope, receive), LIMITS))
    except (HTTPException, RequestError):
        return
    assert len(upload.images) == len(upload.names) >= 1


async def test_bodies_over_the_limit(client: httpx.AsyncClient) -> None:
    big = b"x" * (LIMITS.max_image_bytes + 1)
    check_problem(await client.post("/classify", content=big, headers=PNG), 413, "20,001 bytes")

    async def chunks() -> AsyncIterator[bytes]:  # no Content-Length to look at
        for _ in range(30):
            yield b"x" * 1000

    check_problem(
        await client.post("/classify", content=chunks(), headers=PNG), 413, "limit is 20,000"
    )
    form = [("image", ("a", b"x" * 50_000))] * 3
    check_problem(await client.post("/classify", files=form), 413, "the limit is 100,000")
    check_problem(await client.post("/classify", files=form[:1]), 413, "an image has 50,000 bytes")


async def test_too_many_files(client: httpx.AsyncClient) -> None:
    files = [("image", (f"{i}", IMAGES[0])) for i in range(9)]
    check_problem(await client.post("/classify", files=files), 400, "Too many files")


async def test_an_internal_error_shows_nothing_of_the_inside(
    client: httpx.AsyncClient, model: StubModel
) -> None:
    model.error = RuntimeError("secret path /srv/model.onnx")
    response = await client.post("/classify", content=IMAGES[0], headers=PNG)
    check_problem(response, 500, "the server could not answer")
    assert "secret" not in response.text
    model.error = None
    assert (await client.post("/classify", content=IMAGES[0], headers=PNG)).status_code == 200


async def test_a_full_queue_says_when_to_retry(
    client: httpx.AsyncClient, classifier: DataPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifier.models.current.batcher, "_max_queue", 0)
    response = await client.post("/classify", content=IMAGES[0], headers=PNG)
    check_problem(response, 503, "the limit is 0")
    assert response.headers["retry-after"] == "1"


async def test_a_passed_deadline(
    client: httpx.AsyncClient, classifier: DataPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        classifier, "limits", dataclasses.replace(classifier.limits, request_timeout_s=0.05)
    )
    monkeypatch.setattr(classifier, "_decode_all", lambda *_: asyncio.sleep(60))
    response = await client.post("/classify", content=IMAGES[0], headers=PNG)
    check_problem(response, 504, "no answer within 0.05 s")


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/classify", 405), ("POST", "/x", 404)]
)
async def test_routes_that_are_not(
    client: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    response = await client.request(method, path)
    assert response.status_code == status
    assert json.loads(response.text)["status"] == status


class TestKeys:
    @pytest.fixture
    async def client(self, classifier: DataPlane) -> AsyncIterator[httpx.AsyncClient]:
        keys = Keys([sha256("one"), sha256("two")], sha256("admin"))
        app = app_of(classifier, keys=keys, rate_limit=RateLimit(0.001, 2))
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            yield client

    @pytest.mark.parametrize(
        "authorization", [None, "", "Bearer", "Bearer three", "Basic one", "one", "Bearer ünï"]
    )
    async def test_without_a_known_key(
        self, client: httpx.AsyncClient, authorization: str | None
    ) -> None:
        headers = PNG if authorization is None else PNG | {"Authorization": authorization}
        encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
        response = await client.post("/classify", content=IMAGES[0], headers=encoded)
        check_problem(response, 401, "send it as 'Authorization: Bearer KEY'")
        assert response.headers["www-authenticate"] == "Bearer"
        for path in ("/model", "/labels", "/v2/models/vgg19", "/nothing"):
            assert (await client.get(path, headers=encoded)).status_code == 401

    async def test_every_route_asks_for_one_but_those_named_here(
        self, client: httpx.AsyncClient
    ) -> None:
        """Of the application's own list, so that a new route without a decision fails."""
        open_to_all = {
            "/v2", "/v2/health/live", "/v2/health/ready",
            "/openapi.json", "/docs.json", "/docs", *pages.PATHS, review.REVIEW,
        }  # fmt: skip
        asked = set()
        for route in create_app().routes:
            if not isinstance(route, Route):  # below review.REVIEW, see test_who_may.py
                assert isinstance(route, Mount)
                assert route.path == review.REVIEW
                continue
            path = route.path_format.format(name="vgg19", version="v1", rest="status")
            for method in (route.methods or set()) - {"HEAD"}:
                for headers in ({}, {"Authorization": "Bearer wrong"}):
                    status = (await client.request(method, path, headers=headers)).status_code
                    assert (status != 401) == (route.path in open_to_all), (method, path)
            asked.add(route.path)
        assert open_to_all < asked

    async def test_probes_need_none(self, client: httpx.AsyncClient) -> None:
        for path in ("/v2", "/v2/health/live", "/v2/health/ready"):
            assert (await client.get(path)).status_code == 200

    async def test_each_key_has_its_own_allowance(self, client: httpx.AsyncClient) -> None:
        async def ask(key: str) -> httpx.Response:
            return await client.get("/labels", headers={"Authorization": f"Bearer {key}"})

        assert [(await ask("one")).status_code for _ in range(2)] == [200, 200]
        limited = await ask("one")
        check_problem(limited, 429, "more than 0.001 requests a second (VGG19_RATE_LIMIT)")
        assert 900 < int(limited.headers["retry-after"]) <= 1000
        assert (await ask("two")).status_code == 200

    async def test_the_repository_needs_the_admin_key(
        self, client: httpx.AsyncClient, models: ModelPool
    ) -> None:
        admin = {"Authorization": "Bearer admin"}
        load, unload = (f"/v2/repository/models/vgg19/{verb}" for verb in ("load", "unload"))
        body = {"parameters": {"version": "v2"}}
        for key in ("one", "three"):
            headers = {"Authorization": f"Bearer {key}"}
            assert (await client.post(load, json=body, headers=headers)).status_code == 401
        assert models.versions == ["v1"]
        assert (await client.post(load, json=body, headers=admin)).status_code == 200
        listing = await client.post("/v2/repository/index", json={}, headers=admin)
        assert [(e["version"], e["state"]) for e in listing.json()] == [
            ("v1", "READY"), ("v2", "READY"), ("broken", "UNAVAILABLE"),
        ]  # fmt: skip
        ready = await client.post("/v2/repository/index", json={"ready": True}, headers=admin)
        assert len(ready.json()) == 2
        broken = await client.post(load, json={"parameters": {"version": "broken"}}, headers=admin)
        check_problem(broken, 409, "version 'broken' can't be loaded: no model broken")
        assert (await client.post(unload, json=body, headers=admin)).status_code == 200
        assert models.versions == ["v1"]
        check_problem(
            await client.post(unload, json={"parameters": {"version": "v1"}}, headers=admin),
            409, "the current one",
        )  # fmt: skip

    @pytest.mark.parametrize("path", ["index", "models/vgg19/load", "models/vgg19/unload"])
    async def test_other_media_types(self, client: httpx.AsyncClient, path: str) -> None:
        headers = {"Authorization": "Bearer admin", "Content-Type": PICKLE}
        response = await client.post(f"/v2/repository/{path}", content=b"{}", headers=headers)
        check_problem(response, 415, PICKLE)

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            (b"x", "the body is not JSON"),
            (b"[]", "the body must be"),
            (b"[" * 99_999, "the body is not JSON"),
            (b'{"parameters": {"version": "../etc"}}', "'../etc' is not a version"),
            (b'{"parameters": {"version": 1}}', "a version is named by"),
            (b'{"parameters": []}', "a version is named by"),
        ],
    )
    async def test_versions_that_are_none(
        self, client: httpx.AsyncClient, body: bytes, words: str
    ) -> None:
        headers = {"Authorization": "Bearer admin"}
        response = await client.post(
            "/v2/repository/models/vgg19/load", content=body, headers=headers
        )
        check_problem(response, 422, words)


async def test_without_an_admin_key_there_is_no_repository(client: httpx.AsyncClient) -> None:
    headers = {"Authorization": "Bearer "}
    check_problem(await client.post("/v2/repository/index", headers=headers), 404, "Not Found")


def sha256(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


class TestOwnRoutes:
    """What BentoML answers, and what it never sees."""

    @pytest.mark.parametrize(
        "path", ["/livez", "/readyz", "/healthz", "/metrics", "/schema.json", "/static_content/x"]
    )
    async def test_bentomls(self, path: str) -> None:
        assert await who_answers(path) == "bentoml"
        assert await who_answers(path, "POST") == "own"  # it never gets a body

    @pytest.mark.parametrize(
        "path", ["/classify", "/", "/v2", "/docs.json", "/classify/submit", "/livez/x", "/nowhere"]
    )
    async def test_ours(self, path: str) -> None:
        assert await who_answers(path) == "own"

    async def test_once_started_no_middleware_of_bentoml_comes_before_ours(self) -> None:
        passed: list[str] = []

        class Costly:
            """As BentoML puts its metrics, its tracing and its time limits before a service's."""

            def __init__(self, app: ASGIApp) -> None:
                self._app = app

            async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
                passed.append(f"{scope['type']} {scope.get('path', '')}".strip())
                await self._app(scope, receive, send)

        own = Starlette(routes=[Route("/classify", lambda request: PlainTextResponse("own"))])
        bentoml = Starlette(
            routes=[Route("/livez", lambda request: PlainTextResponse("bentoml"))],
            middleware=[Middleware(Costly), Middleware(RouteDispatch, own=own)],
        )
        await start_and_end(bentoml)
        transport = httpx.ASGITransport(bentoml)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            assert (await client.get("/classify")).text == "own"
            assert (await client.get("/livez")).text == "bentoml"
        assert passed == ["lifespan", "http /livez"]


async def start_and_end(app: ASGIApp) -> None:
    """Its lifespan, from beginning to end, as a server has it."""
    received = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

    async def receive() -> Message:
        return next(received)

    async def send(message: Message) -> None:
        assert message["type"].endswith("complete"), message

    await app({"type": "lifespan", "state": {}}, receive, send)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/classify"),
        ("GET", "/model"),
        ("GET", "/labels"),
        ("POST", "/feedback"),
        ("GET", "/openapi.json"),
        ("GET", "/docs"),
        ("GET", "/v2"),
        ("GET", "/v2/health/live"),
        ("GET", "/v2/health/ready"),
        ("GET", "/v2/models/stats"),
        ("GET", "/v2/models/vgg19"),
        ("GET", "/v2/models/vgg19/ready"),
        ("GET", "/v2/models/vgg19/versions/v1/config"),
        ("POST", "/v2/models/vgg19/infer"),
        ("POST", "/v2/repository/index"),
        ("GET", "/ui/page.js"),
        ("GET", "/none"),
    ],
)
async def test_a_slash_at_the_end_makes_no_difference(
    classifier: DataPlane, method: str, path: str
) -> None:
    service = RouteDispatch(PlainTextResponse("bentoml"), app_of(classifier))
    transport = httpx.ASGITransport(service)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        plain, with_slash = [
            await client.request(method, path + end, content=IMAGES[0], headers=PNG)
            for end in ("?top_k=1", "/?top_k=1")
        ]
    assert with_slash.status_code == plain.status_code
    assert "location" not in with_slash.headers
    if path == "/docs":  # its files are a step up from there
        assert with_slash.text.replace('<base href="../">\n', "") == plain.text != with_slash.text
    elif path != "/classify":
        assert with_slash.text == plain.text


async def test_a_slash_at_the_end_of_what_bentoml_answers() -> None:
    assert await who_answers("/livez/") == await who_answers("/metrics/") == "bentoml"
    assert await who_answers("//") == await who_answers("/livez//") == "own"


@pytest.mark.parametrize(
    ("value", "has_map"), [("True", True), ("TRUE", True), ("False", False), ("FALSE", False)]
)
async def test_booleans_as_python_writes_them(
    client: httpx.AsyncClient, value: str, has_map: bool
) -> None:
    in_query = await client.post(f"/classify?explain={value}", content=IMAGES[0], headers=PNG)
    files, fields = {"image": ("a.png", IMAGES[0])}, {"explain": value}
    in_form = await client.post("/classify", files=files, data=fields)
    for response in (in_query, in_form):
        assert response.status_code == 200, response.text
        assert ("heatmap" in response.json()["images"][0]) is has_map


async def who_answers(path: str, method: str = "GET") -> str:
    called: list[str] = []

    async def bentoml(scope: Scope, receive: Receive, send: Send) -> None:
        called.append("bentoml")

    async def own(scope: Scope, receive: Receive, send: Send) -> None:
        called.append("own")

    routes = RouteDispatch(bentoml, own)
    scope = {"type": "http", "path": path, "method": method}
    await routes(scope, None, None)  # type: ignore[arg-type]
    (answered,) = called
    return answered
