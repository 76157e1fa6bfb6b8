"""Pages of other origins that may ask this service from a browser (`VGG19_CORS_ORIGINS`)."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

# What a script may read of an answer besides the few headers that browsers always show.
_EXPOSED = ("X-Request-Id", "Retry-After", "Inference-Header-Content-Length")


def with_cors(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """The application itself if no origins are allowed, so nobody pays for it.

    It goes around everything: a browser asks before (`OPTIONS`) without the key that it is to send
    then, and a script can't read an error that doesn't allow its origin.
    """
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=("GET", "HEAD", "POST"),
        allow_headers=("*",),  # whichever are asked for, Authorization among them
        expose_headers=_EXPOSED,
    )
