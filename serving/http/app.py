"""HTTP: converts requests for the classifier and its answers back. Nothing else happens here."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.admission.proxies import FORWARDED_FOR
from serving.context import ServiceContext
from serving.core.errors import NotFound, RequestError
from serving.engine.providers import device_name
from serving.http import openapi, overview, pages, review, v2
from serving.http.classify import classify
from serving.http.cors import with_cors
from serving.http.encoding import ContentEncoding
from serving.http.errors import HANDLERS, on_internal_error, on_request_error
from serving.http.feedback import feedback
from serving.http.inflight import InFlightBodies
from serving.observability.telemetry import REQUEST_ID_HEADER, RequestRecord

logger = logging.getLogger(__name__)

CLASSIFY = "/classify"
_ADMIN = "/v2/repository/"
# Probes, the description of the interface and the page need no key and leave no signals.
_OPEN = frozenset({"/v2", "/openapi.json", "/docs.json", "/docs", *pages.PATHS, *review.PATHS})
# What the page asks every few seconds: it would show its own looks as traffic, and their times.
_LOOKS = frozenset({overview.OVERVIEW, overview.DIFFERING, "/drift"})
_BENTOML = frozenset({"/livez", "/healthz", "/readyz", "/metrics", "/schema.json"})
_BENTOML_FILES = "/static_content/"


def create_app() -> Starlette:
    """The HTTP application.

    `app.state.context` is set when the model is loaded, before the first request.
    """
    app = Starlette(
        routes=[
            Route(CLASSIFY, classify, methods=["POST"]),
            Route("/model", model),
            Route("/labels", labels),
            Route("/feedback", feedback, methods=["POST"]),
            Route("/drift", drift),
            *v2.routes(),
            *v2.admin_routes(),
            *overview.routes(),
            *openapi.routes(),
            *pages.routes(),
            *review.routes(),
        ],
        middleware=[
            Middleware(ContextMiddleware),
            Middleware(ContentEncoding),
            Middleware(InFlightBodies),
            Middleware(ClassifyFastPath),
        ],
        exception_handlers=HANDLERS,
    )
    app.router.redirect_slashes = False  # many clients lose their body on the way: `RouteDispatch`
    return app


class RouteDispatch:
    """Leaves BentoML the paths that it is to answer, and sends all others to this application.

    BentoML has a `/classify`, too, for its own clients' sake; but what it would do with a request
    there is to fetch the URLs in it.

    BentoML adds a service's middleware behind its own (metrics, tracing, time limits), which took
    more time for each request than this application does and which
    `serving.observability.telemetry` has in place of. So once BentoML starts, this middleware steps
    in front of them.

    Args:
        origins: asked for when the service starts, see `serving.http.cors`.
    """

    def __init__(
        self, app: ASGIApp, own: ASGIApp, origins: Callable[[], Sequence[str]] = tuple
    ) -> None:
        self._app = app
        self._own = own
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            bentoml: Starlette = scope["app"]
            assert bentoml.middleware_stack is not None, "the lifespan came by another way"
            front = RouteDispatch(bentoml.middleware_stack, self._own)
            bentoml.middleware_stack = with_cors(front, self._origins())
        path = scope.get("path", "")
        if path.endswith("/") and path != "/":  # the same as without
            path = path[:-1]
            scope = {**scope, "path": path}
        is_bentoml = path in _BENTOML or path.startswith(_BENTOML_FILES)
        is_bentoml = is_bentoml and scope.get("method") in ("GET", "HEAD")  # it reads no body
        is_own = scope["type"] == "http" and not is_bentoml
        await (self._own if is_own else self._app)(scope, receive, send)


class ClassifyFastPath:
    """Takes `POST /classify` past Starlette's router and its handling of exceptions, with the same
    answers: those took a third of what HTTP costs (docs/benchmarks.md)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != CLASSIFY or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            response = await classify(request)
        except (RequestError, HTTPException, ClientDisconnect) as error:
            kind = next(kind for kind in type(error).__mro__ if kind in HANDLERS)
            response = await HANDLERS[kind](request, error)
        await response(scope, receive, send)


class ContextMiddleware:
    """Asks for keys and counts requests before a body is read, and notes what came of them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _is_open(scope["path"]):
            await self._app(scope, receive, send)
            return
        context: ServiceContext = scope["app"].state.context
        headers = Headers(scope=scope)
        peer = scope["client"][0] if scope.get("client") else ""
        address = context.client_address.of(peer, headers.getlist(FORWARDED_FOR))
        operation = f"{scope['method']} {scope['path'][:200]}"
        with context.telemetry.observe("http", operation, headers, address) as record:
            record.is_look = scope["path"] in _LOOKS

            async def send_and_note(message: Message) -> None:
                if message["type"] == "http.response.start":
                    record.status = str(message["status"])
                    MutableHeaders(scope=message)[REQUEST_ID_HEADER] = record.request_id
                await send(message)

            try:
                _admit(context, record, scope["path"], headers.get("authorization"))
                await self._app(scope, receive, send_and_note)
            except RequestError as error:
                response = await on_request_error(Request(scope), error)
                await response(scope, receive, send_and_note)
            except Exception as error:
                await _fail(scope, receive, send_and_note, record, error)
            except BaseException:
                record.outcome, record.status = "cancelled", ""
                raise


async def _fail(
    scope: Scope, receive: Receive, send: Send, record: RequestRecord, error: Exception
) -> None:
    """Answer what nobody expected, unless an answer was begun.

    Raised further, the server would close the connection after the answer, and with it the next
    request that the client has sent on it meanwhile.
    """
    record.outcome = "error"
    if record.status:
        raise error
    logger.error("a request failed", exc_info=error)
    response = await on_internal_error(Request(scope), error)
    await response(scope, receive, send)


def _is_open(path: str) -> bool:
    return path in _OPEN or path.startswith("/v2/health/")


def _admit(
    context: ServiceContext, record: RequestRecord, path: str, authorization: str | None
) -> None:
    if path.startswith(_ADMIN) or path in overview.ADMIN or review.is_review(path):
        context.admit_admin(authorization)
    else:
        record.key = context.admit(authorization, record.client)


async def model(request: Request) -> Response:
    """`GET /model`: what is served, and whether a later one couldn't be."""
    context: ServiceContext = request.app.state.context
    models = context.classifier.models
    served, failed = models.current, models.failed
    return JSONResponse(
        {
            "name": served.name,
            "version": served.version,
            "loaded_versions": models.versions,
            "failed_load": failed and {"version": failed.desired.version, "reason": failed.reason},
            "device": device_name(served.provider),
            "provider": served.provider,
            **asdict(served.runs),
            "acceptance": served.acceptance and served.acceptance.model_dump(),
            "heat_maps": served.explainer is not None,
            "spec": served.spec.model_dump(mode="json"),
            "metrics": served.metrics,
        }
    )


async def drift(request: Request) -> Response:
    """`GET /drift`: how what the current model answers differs from its validation images."""
    context: ServiceContext = request.app.state.context
    if context.drift is None:
        raise NotFound("drift isn't watched here (VGG19_DRIFT is off)")
    return JSONResponse(context.drift.reply())


async def labels(request: Request) -> Response:
    """`GET /labels`: the classes, in the order of the model's output."""
    context: ServiceContext = request.app.state.context
    return JSONResponse({"labels": context.classifier.models.current.spec.labels})
