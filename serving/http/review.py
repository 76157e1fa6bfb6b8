"""The page of reviews below `/review/`, where VGG19_REVIEW is set: `review.app` with the service's
review, behind the admin key (`serving.http.app` asks for it)."""

from __future__ import annotations

from starlette.responses import RedirectResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from review.app import make_app
from review.desk import Desk
from review.guard import ServiceHosts
from review.page_files import page_paths
from serving.context import ServiceContext
from serving.core.errors import NotFound

REVIEW = "/review"
# The page itself, which holds nothing that a key would have to guard.
PATHS = frozenset({REVIEW, *(f"{REVIEW}{path}" for path in page_paths())})


def is_review(path: str) -> bool:
    """Whether it lies below `REVIEW`."""
    return path == REVIEW or path.startswith(f"{REVIEW}/")


def routes() -> list[BaseRoute]:
    """They are no part of the interface's description: the page alone asks them."""
    review = _Review()
    return [Route(REVIEW, review, include_in_schema=False), Mount(REVIEW, review)]


class _Review:
    """ASGI: the application of the review that the context has."""

    def __init__(self) -> None:
        self._of: Desk | None = None
        self._app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context: ServiceContext = scope["app"].state.context
        if context.review is None:
            raise NotFound("there are no reviews here (VGG19_REVIEW is not set)")
        path = scope["path"].removeprefix(REVIEW) or "/"
        if path == "/" and not _ends_with_slash(scope):
            # The page's files are named relative to it; and so is this, for proxies with a prefix.
            await RedirectResponse(f"{REVIEW[1:]}/")(scope, receive, send)
            return
        inner = {**scope, "path": path, "root_path": ""}
        await self._application(context)(inner, receive, send)

    def _application(self, context: ServiceContext) -> ASGIApp:
        assert context.review is not None
        if self._app is None or self._of is not context.review:
            self._of = context.review
            self._app = make_app(context.review, ServiceHosts(context.review_hosts))
        return self._app


def _ends_with_slash(scope: Scope) -> bool:
    """As it was sent: `RouteDispatch` takes the slash off."""
    raw: bytes = scope.get("raw_path") or b""
    return raw.partition(b"?")[0].endswith(b"/")
