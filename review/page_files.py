"""The page's own files, read once. Each has its own route."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_DIRECTORY = Path(__file__).parent / "page"
_INDEX = "index.html"
_BESIDE = ("style.css", "icon.svg", "main.js", "api.js", "keys.js", "card.js", "grid.js", "side.js")
_PATHS = {"/": _INDEX} | {f"/page/{name}": name for name in _BESIDE}
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob:; connect-src 'self'; form-action 'none'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def page_paths() -> frozenset[str]:
    """Of the files, which hold nothing that a key would have to guard."""
    return frozenset(_PATHS)


def page_routes() -> list[Route]:
    return [Route(path, _answer(_DIRECTORY / name)) for path, name in _PATHS.items()]


def _answer(path: Path) -> Callable[[Request], Awaitable[Response]]:
    content, headers = path.read_bytes(), _HEADERS | {"Content-Type": _MEDIA_TYPES[path.suffix]}

    async def answer(request: Request) -> Response:
        return Response(content, headers=headers)

    return answer
