"""The page at `/`, which classifies images in a browser and shows production: a few static files,
read once.

Every file has its own route, so no path of a client's reaches the file system.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_DIRECTORY = Path(__file__).parent / "ui"
_INDEX = "index.html"
_BESIDE = (
    "style.css",
    "icon.svg",
    "page.js",
    "api.js",
    "cards.js",
    "csv.js",
    "heat.js",
    "folders.js",
    "production.css",
    "production.js",
    "tabs.js",
    "charts.js",
    "drift.js",
    "admin.js",
    "rollback.js",
    "rollout.js",
)
PATHS = {"/": _INDEX} | {f"/ui/{name}": name for name in _BESIDE}
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_HEADERS = {
    # Asked for again each time and answered with 304, so no browser mixes two releases.
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob:; connect-src 'self'; form-action 'none'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class _StaticFile:
    """One of them, in memory, with its headers."""

    def __init__(self, path: Path) -> None:
        self._content = path.read_bytes()
        self._etag = f'"{hashlib.sha256(self._content).hexdigest()[:32]}"'
        self._headers = _HEADERS | {"ETag": self._etag, "Content-Type": _MEDIA_TYPES[path.suffix]}

    async def answer(self, request: Request) -> Response:
        known = [tag.strip() for tag in request.headers.get("if-none-match", "").split(",")]
        # Proxies that compress make a tag weak.
        if {"*", self._etag, f"W/{self._etag}"}.intersection(known):
            return Response(status_code=304, headers=_HEADERS | {"ETag": self._etag})
        return Response(self._content, headers=self._headers)


def routes() -> list[Route]:
    """They are no part of the interface's description, as `/docs` isn't."""
    return [
        Route(path, _StaticFile(_DIRECTORY / name).answer, include_in_schema=False)
        for path, name in PATHS.items()
    ]
