"""The files of a page, read once.

Every file has its own route, so no path of a client's reaches the file system.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

# Colours and controls, which each page asks for beside its own files.
BASE_STYLE = Path(__file__).parent / "base.css"
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


def file_routes(files: Mapping[str, Path], headers: Mapping[str, str] | None = None) -> list[Route]:
    """A route for each file. They are no part of an interface's description.

    Args:
        files: by their paths on the server.
        headers: sent besides the usual ones.
    """
    return [
        Route(path, _StaticFile(file, headers or {}).answer, include_in_schema=False)
        for path, file in files.items()
    ]


class _StaticFile:
    """One of them, in memory, with its headers."""

    def __init__(self, path: Path, headers: Mapping[str, str]) -> None:
        self._content = path.read_bytes()
        self._etag = f'"{hashlib.sha256(self._content).hexdigest()[:32]}"'
        self._unchanged = {**_HEADERS, **headers, "ETag": self._etag}
        self._headers = self._unchanged | {"Content-Type": _MEDIA_TYPES[path.suffix]}

    async def answer(self, request: Request) -> Response:
        known = [tag.strip() for tag in request.headers.get("if-none-match", "").split(",")]
        # Proxies that compress make a tag weak.
        if {"*", self._etag, f"W/{self._etag}"}.intersection(known):
            return Response(status_code=304, headers=self._unchanged)
        return Response(self._content, headers=self._headers)
